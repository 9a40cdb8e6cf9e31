//! The tags that a launch gave its instances, as CloudTrail recorded its request and its answer.
//!
//! Only the tags by which services name what an instance belongs to are kept: a report explains with
//! them, and nothing is decided by them. An exemption is never read here.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::json::{Collect, OneOrMany, Raw};

/// The keys of the tags by which services name what an instance belongs to.
pub const OWNER_TAGS: [&str; 16] = [
    "AWSBatchServiceTag",
    "aws:autoscaling:groupName",
    "aws:cloudformation:stack-name",
    "aws:ec2:fleet-id",
    "aws:ec2launchtemplate:id",
    "aws:ec2launchtemplate:version",
    "aws:ec2spot:fleet-request-id",
    "aws:eks:cluster-name",
    "aws:elasticmapreduce:job-flow-id",
    "eks:cluster-name",
    "eks:eks-cluster-name",
    "eks:nodegroup-name",
    "elasticbeanstalk:environment-name",
    "karpenter.k8s.aws/ec2nodeclass",
    "karpenter.sh/nodepool",
    "karpenter.sh/provisioner-name",
];

/// The tags of [`OWNER_TAGS`] in a list of tags, by key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct OwnerTags(BTreeMap<String, String>);

/// One tag.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Tag<'a> {
    #[serde(borrow)]
    key: Raw<'a>,
    value: Raw<'a>,
}

impl Collect for OwnerTags {
    type Item<'a> = Tag<'a>;

    fn add(&mut self, item: Option<Tag>) {
        let Some(Tag { key, value }) = item else { return };
        if let Some(key) = key.str().filter(|key| OWNER_TAGS.contains(&key.as_ref())) {
            self.0.insert(key.into_owned(), value.text().unwrap_or_default());
        }
    }
}

/// The tags of an instance in an answer: `tagSet`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct TagSet {
    items: OneOrMany<OwnerTags>,
}

/// The tags that a request asked for: `tagSpecificationSet`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct TagSpecificationSet {
    items: OneOrMany<InstanceTags>,
}

/// The tags that a request asked for its instances, not for their volumes or interfaces.
#[derive(Debug, Default)]
pub(super) struct InstanceTags(OwnerTags);

/// The tags that a request asked for one kind of resource.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct TagSpecification<'a> {
    #[serde(borrow)]
    resource_type: Raw<'a>,
    tags: OneOrMany<OwnerTags>,
}

impl Collect for InstanceTags {
    type Item<'a> = TagSpecification<'a>;

    fn add(&mut self, item: Option<TagSpecification>) {
        let Some(TagSpecification { resource_type, tags: OneOrMany(tags) }) = item else { return };
        if resource_type.is("instance") {
            self.0.0.extend(tags.0);
        }
    }
}

/// The tags of an instance in an answer, if it says.
pub(super) fn of_answer(tag_set: Option<TagSet>) -> BTreeMap<String, String> {
    tag_set.unwrap_or_default().items.0.0
}

/// The tags that a request asked for its instances, if it says.
pub(super) fn of_request(set: Option<TagSpecificationSet>) -> BTreeMap<String, String> {
    set.unwrap_or_default().items.0.0.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::json::Level;

    fn requested(json: &str) -> Vec<(String, String)> {
        let Level(set) = serde_json::from_str(json).unwrap();
        of_request(set).into_iter().collect()
    }

    #[test]
    fn tags_are_read_of_instances_alone_and_of_those_that_name_an_owner() {
        let group = r#"{"key": "aws:autoscaling:groupName", "value": "web"}"#;
        let expected = vec![("aws:autoscaling:groupName".to_owned(), "web".to_owned())];
        for (tags, kind, found) in [
            (format!("[{group}]"), "instance", expected.clone()),
            (group.to_owned(), "instance", expected.clone()),
            (format!(r#"[{{"key": "imds-exemption", "value": "2026-12-31"}}, {group}]"#), "instance", expected),
            (format!("[{group}]"), "volume", Vec::new()),
            (r#"[null, 7, {"key": 7}, {"value": "web"}]"#.to_owned(), "instance", Vec::new()),
            ("null".to_owned(), "instance", Vec::new()),
        ] {
            let json = format!(r#"{{"items": [{{"resourceType": "{kind}", "tags": {tags}}}]}}"#);
            assert_eq!(requested(&json), found, "{json}");
        }
        for json in ["null", "[]", "{}", r#"{"items": "text"}"#, r#"{"omitted": true}"#] {
            assert!(requested(json).is_empty(), "{json}");
        }
    }

    #[test]
    fn the_keys_are_sorted_and_each_is_there_once() {
        assert!(OWNER_TAGS.is_sorted_by(|a, b| a < b));
    }
}
