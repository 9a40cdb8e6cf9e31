//! EC2 in memory, behind the port: fast enough for thousands of cases of a property.

use std::collections::BTreeMap;
use std::sync::Mutex;

use imds_enforcer::aws::ec2::{Ec2, Page, Which};
use imds_enforcer::aws::{Class, Error};
use imds_enforcer::instance::{HttpEndpoint, HttpTokens, Instance, InstanceId, InstanceState, MetadataOptions};

/// Instances, and the ids of those that were written to, in order.
#[derive(Debug, Default)]
pub(crate) struct FakeEc2 {
    pub(crate) instances: Mutex<BTreeMap<InstanceId, Instance>>,
    pub(crate) writes: Mutex<Vec<InstanceId>>,
    /// Instances whose modification is refused.
    pub(crate) refused: Vec<InstanceId>,
    /// How many modifications are in flight, and how many were at the most.
    pub(crate) in_flight: Mutex<(usize, usize)>,
}

/// Instances on a page: few, so that there are pages.
const PAGE: usize = 3;

impl Ec2 for &FakeEc2 {
    async fn describe_instances(&self, which: Which<'_>, next_token: Option<&str>) -> Result<Page, Error> {
        let instances = self.instances.lock().unwrap();
        let matches = |instance: &&Instance| match which {
            Which::Named(ids) => ids.contains(&instance.id),
            Which::Violators => {
                instance.metadata_options.http_tokens == Some(HttpTokens::Optional)
                    && !matches!(instance.state, InstanceState::ShuttingDown | InstanceState::Terminated)
            }
        };
        let after = next_token.map(|token| token.parse::<InstanceId>().unwrap());
        let to_come = |instance: &&Instance| after.as_ref().is_none_or(|after| instance.id > *after);
        let mut page: Vec<_> = instances.values().filter(matches).filter(to_come).take(PAGE + 1).cloned().collect();
        let is_last = page.len() <= PAGE;
        page.truncate(PAGE);
        let next_token = page.last().filter(|_| !is_last).map(|last| last.id.to_string());
        Ok(Page { instances: page, next_token })
    }

    async fn require_tokens(&self, id: &InstanceId) -> Result<MetadataOptions, Error> {
        self.writes.lock().unwrap().push(id.clone());
        self.take_a_while().await;
        if self.refused.contains(id) {
            let code = "UnauthorizedOperation".to_owned();
            return Err(Error { class: Class::Refused, code, message: "no".to_owned() });
        }
        let mut instances = self.instances.lock().unwrap();
        let options = &mut instances.get_mut(id).unwrap().metadata_options;
        options.http_tokens = Some(HttpTokens::Required);
        options.http_endpoint = Some(HttpEndpoint::Enabled);
        Ok(options.clone())
    }

    fn requests(&self) -> usize {
        self.writes.lock().unwrap().len()
    }
}

impl FakeEc2 {
    async fn take_a_while(&self) {
        {
            let (now, most) = &mut *self.in_flight.lock().unwrap();
            *now += 1;
            *most = (*most).max(*now);
        }
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        self.in_flight.lock().unwrap().0 -= 1;
    }
}
