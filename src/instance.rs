//! What EC2 says of an instance, as far as a decision needs it.
//!
//! The ground floor: it knows EC2's words and nothing of events, configuration or the SDK.
//! A value that EC2 may one day add is kept as it was spelled, never guessed at.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Serialize, Serializer};

/// An EC2 instance id: `i-` and 8 or 17 hex digits.
///
/// Only a text of that shape becomes one, so what is held in this type can be sent to EC2.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct InstanceId(String);

impl InstanceId {
    /// The id as EC2 spells it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for InstanceId {
    type Err = MalformedInstanceId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_hex = |digits: &str| digits.bytes().all(|b| b.is_ascii_hexdigit());
        match text.strip_prefix("i-") {
            Some(digits) if matches!(digits.len(), 8 | 17) && is_hex(digits) => Ok(Self(text.to_owned())),
            Some(_) | None => Err(MalformedInstanceId::new(text)),
        }
    }
}

/// A text that stood where an instance id belongs and is none. It is never sent to EC2.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("{0:?} is not an instance id: `i-` and 8 or 17 hex digits")]
pub struct MalformedInstanceId(String);

impl MalformedInstanceId {
    /// Longest part of the text that is kept: it comes from outside and ends in logs.
    const KEPT_CHARS: usize = 64;

    pub(crate) fn new(text: &str) -> Self {
        Self(text.chars().take(Self::KEPT_CHARS).collect())
    }

    /// The text, cut at 64 characters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Defines an enum of EC2's words that keeps a word it does not know as `Other`.
macro_rules! ec2_words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
            /// A word this version does not know, as EC2 spelled it.
            Other(String),
        }

        impl $name {
            /// The word as EC2 spells it.
            #[must_use]
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $word,)+
                    Self::Other(word) => word,
                }
            }
        }

        impl From<&str> for $name {
            fn from(word: &str) -> Self {
                match word {
                    $($word => Self::$variant,)+
                    other => Self::Other(other.to_owned()),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }
    };
}

ec2_words! {
    /// `MetadataOptions.HttpTokens`: whether a session token (IMDSv2) must be shown.
    HttpTokens {
        /// Only requests with a session token are answered.
        Required = "required",
        /// Requests without a token (IMDSv1) are answered too.
        Optional = "optional",
    }
}

ec2_words! {
    /// `MetadataOptions.HttpEndpoint`: whether the instance's metadata can be reached at all.
    HttpEndpoint {
        /// The metadata service answers.
        Enabled = "enabled",
        /// The metadata service is closed.
        Disabled = "disabled",
    }
}

ec2_words! {
    /// `MetadataOptions.State`: whether the options have reached the instance.
    MetadataOptionsState {
        /// Accepted, not yet in force.
        Pending = "pending",
        /// In force.
        Applied = "applied",
    }
}

ec2_words! {
    /// `State.Name` of an instance.
    InstanceState {
        /// Being launched.
        Pending = "pending",
        /// Launched.
        Running = "running",
        /// Being stopped or hibernated.
        Stopping = "stopping",
        /// Stopped; it can be started again.
        Stopped = "stopped",
        /// Being terminated.
        ShuttingDown = "shutting-down",
        /// Terminated for good.
        Terminated = "terminated",
    }
}

/// `MetadataOptions` of an instance. What EC2 left out is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct MetadataOptions {
    /// Whether these options have reached the instance.
    pub state: Option<MetadataOptionsState>,
    /// Whether tokens are required.
    pub http_tokens: Option<HttpTokens>,
    /// Whether the metadata service answers.
    pub http_endpoint: Option<HttpEndpoint>,
    /// How many network hops an answer may travel, 1 to 64. The owner's: never changed here.
    pub http_put_response_hop_limit: Option<i32>,
    /// Whether the IPv6 endpoint answers. The owner's: never changed here.
    pub http_protocol_ipv6: Option<String>,
    /// Whether tags can be read from the metadata. The owner's: never changed here.
    pub instance_metadata_tags: Option<String>,
}

/// An instance as `DescribeInstances` describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Its id.
    pub id: InstanceId,
    /// Where in its life it is.
    pub state: InstanceState,
    /// Its metadata options.
    pub metadata_options: MetadataOptions,
    /// Its tags, by key.
    pub tags: BTreeMap<String, String>,
    /// `Operator.Principal` when a service manages the instance, as EKS Auto Mode does.
    pub managed_by: Option<String>,
    /// The image it was launched from.
    pub image_id: Option<String>,
    /// The ARN of its instance profile, whose role's credentials its metadata service hands out.
    pub instance_profile: Option<String>,
    /// When it was created: the earliest of its launch time, which moves with each start, and the times
    /// at which its primary network interface and its root volume were attached.
    pub created: Option<DateTime<Utc>>,
}

impl Instance {
    /// An instance of which nothing else is described.
    #[must_use]
    pub fn new(id: InstanceId, state: InstanceState, metadata_options: MetadataOptions) -> Self {
        Self {
            id,
            state,
            metadata_options,
            tags: BTreeMap::new(),
            managed_by: None,
            image_id: None,
            instance_profile: None,
            created: None,
        }
    }

    /// Whether it looks like a host of containers: tags of EKS, Kubernetes or ECS, or their service
    /// as its operator.
    #[must_use]
    pub fn hosts_containers(&self) -> bool {
        const PREFIXES: [&str; 6] =
            ["eks:", "aws:eks:", "kubernetes.io/cluster/", "k8s.io/", "karpenter.sh/", "aws:ecs:"];
        let is_of_containers =
            |key: &String| key == "AmazonECSManaged" || PREFIXES.iter().any(|prefix| key.starts_with(prefix));
        let is_service = |service: &String| service.starts_with("eks.") || service.starts_with("ecs.");
        self.tags.keys().any(is_of_containers) || self.managed_by.as_ref().is_some_and(is_service)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_lengths_of_instance_ids_are_read() {
        for id in ["i-1a2b3c4d", "i-0123456789abcdef0"] {
            assert_eq!(id.parse::<InstanceId>().unwrap().as_str(), id);
        }
    }

    #[test]
    fn what_is_no_instance_id_is_refused() {
        for text in [
            "",
            "i-",
            "i-1a2b3c4",
            "i-1a2b3c4dd",
            "i-0123456789abcdeg0",
            "I-1a2b3c4d",
            " i-1a2b3c4d",
            "i-1a2b3c4d\n",
            "ami-1a2b3c4d",
            "i-*",
            "i-0123456789abcdé0",
        ] {
            assert!(text.parse::<InstanceId>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_long_text_is_cut_before_it_reaches_a_log() {
        let error = "x".repeat(1_000_000).parse::<InstanceId>().unwrap_err();
        assert_eq!(error.as_str().len(), 64);
    }

    #[test]
    fn only_the_exact_word_is_required() {
        assert_eq!(HttpTokens::from("required"), HttpTokens::Required);
        for word in ["Required", "required ", "REQUIRED", "v2", ""] {
            assert_eq!(HttpTokens::from(word), HttpTokens::Other(word.to_owned()));
        }
    }

    #[test]
    fn a_host_of_containers_is_known_by_tags_or_operator() {
        let bare = Instance::new("i-1a2b3c4d".parse().unwrap(), InstanceState::Running, MetadataOptions::default());
        let instance = |tag: &str, managed_by: Option<&str>| Instance {
            tags: [(tag.to_owned(), "any".to_owned())].into(),
            managed_by: managed_by.map(str::to_owned),
            ..bare.clone()
        };
        for tag in ["eks:nodegroup-name", "kubernetes.io/cluster/blue", "karpenter.sh/nodepool", "AmazonECSManaged"] {
            assert!(instance(tag, None).hosts_containers(), "{tag}");
        }
        assert!(instance("Name", Some("eks.amazonaws.com")).hosts_containers());
        assert!(!instance("Name", Some("workspaces.amazonaws.com")).hosts_containers());
        assert!(!instance("keks:", None).hosts_containers());
    }

    #[test]
    fn an_unknown_word_keeps_its_spelling() {
        assert_eq!(serde_json::to_value(HttpEndpoint::from("private")).unwrap(), "private");
    }
}
