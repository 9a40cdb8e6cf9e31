//! What happens in the account: who launches what, how long it lives, and what people do to it.
//!
//! A script that is written before the simulation, from the seed alone, so that every mode lives
//! through the same month.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{NaiveDate, TimeDelta};
use local_ec2::model::Instance;

use super::clock::{at, first_day};
use super::dice::Dice;
use super::truth::Fact;
use crate::harness::id;

/// Who launches instances, and how they come up.
#[derive(Debug)]
pub(crate) struct Maker {
    pub(crate) name: &'static str,
    /// `userIdentity.arn`.
    pub(crate) arn: &'static str,
    pub(crate) invoked_by: Option<&'static str>,
    pub(crate) user_agent: &'static str,
    /// Tags of the launch itself.
    pub(crate) tags: &'static [(&'static str, &'static str)],
    pub(crate) http_tokens: &'static str,
    /// Whether the call asks for these tokens itself.
    pub(crate) asks: bool,
    /// The launch template of the call: its id and version.
    pub(crate) template: Option<(&'static str, &'static str)>,
    /// The service that manages what is launched, which is hidden then.
    pub(crate) managed_by: Option<&'static str>,
    /// Launches in ten days, how many instances each has at the most, and the hours that they live.
    pub(crate) often: u64,
    pub(crate) most: u64,
    pub(crate) hours: (u64, u64),
}

const PLAIN: Maker = Maker {
    name: "",
    arn: "",
    invoked_by: None,
    user_agent: "",
    tags: &[],
    http_tokens: "optional",
    asks: false,
    template: None,
    managed_by: None,
    often: 0,
    most: 1,
    hours: (1, 2),
};

const AUTO_SCALING: &str = "arn:aws:sts::111122223333:assumed-role/AWSServiceRoleForAutoScaling/AutoScaling";

/// Everyone who launches instances all the time.
pub(crate) static MAKERS: [Maker; 13] = [
    Maker {
        name: "group whose template requires tokens",
        arn: AUTO_SCALING,
        invoked_by: Some("autoscaling.amazonaws.com"),
        user_agent: "autoscaling.amazonaws.com",
        tags: &[
            ("aws:autoscaling:groupName", "web"),
            ("aws:ec2launchtemplate:id", "lt-0aaaaaaaaaaaaaaa1"),
            ("aws:ec2launchtemplate:version", "4"),
        ],
        http_tokens: "required",
        template: Some(("lt-0aaaaaaaaaaaaaaa1", "4")),
        often: 30,
        most: 3,
        hours: (6, 30),
        ..PLAIN
    },
    Maker {
        name: "group whose template says nothing",
        arn: AUTO_SCALING,
        invoked_by: Some("autoscaling.amazonaws.com"),
        user_agent: "autoscaling.amazonaws.com",
        tags: &[
            ("aws:autoscaling:groupName", "api"),
            ("aws:ec2launchtemplate:id", "lt-0aaaaaaaaaaaaaaa2"),
            ("aws:ec2launchtemplate:version", "12"),
        ],
        template: Some(("lt-0aaaaaaaaaaaaaaa2", "12")),
        often: 30,
        most: 3,
        hours: (6, 30),
        ..PLAIN
    },
    Maker {
        name: "group with a mixed instances policy",
        arn: AUTO_SCALING,
        invoked_by: Some("autoscaling.amazonaws.com"),
        user_agent: "autoscaling.amazonaws.com",
        tags: &[
            ("aws:autoscaling:groupName", "workers"),
            ("aws:ec2launchtemplate:id", "lt-0aaaaaaaaaaaaaaa3"),
            ("aws:ec2launchtemplate:version", "2"),
            ("aws:ec2:fleet-id", "fleet-0aaaaaaaaaaaaaaa3"),
        ],
        template: Some(("lt-0aaaaaaaaaaaaaaa3", "2")),
        often: 20,
        most: 2,
        hours: (2, 12),
        ..PLAIN
    },
    Maker {
        name: "Karpenter",
        arn: "arn:aws:sts::111122223333:assumed-role/KarpenterController/1730000000000000000",
        invoked_by: Some("ec2fleet.amazonaws.com"),
        user_agent: "karpenter.sh-1.7.1",
        tags: &[
            ("karpenter.sh/nodepool", "default"),
            ("karpenter.k8s.aws/ec2nodeclass", "default"),
            ("eks:eks-cluster-name", "blue"),
            ("aws:ec2:fleet-id", "fleet-0aaaaaaaaaaaaaaa4"),
        ],
        template: Some(("lt-0aaaaaaaaaaaaaaa4", "1")),
        often: 80,
        hours: (1, 6),
        ..PLAIN
    },
    Maker {
        name: "EKS node group",
        arn: AUTO_SCALING,
        invoked_by: Some("autoscaling.amazonaws.com"),
        user_agent: "autoscaling.amazonaws.com",
        tags: &[
            ("aws:autoscaling:groupName", "eks-workers-1"),
            ("eks:nodegroup-name", "workers"),
            ("eks:cluster-name", "blue"),
            ("aws:ec2launchtemplate:id", "lt-0aaaaaaaaaaaaaaa5"),
            ("aws:ec2launchtemplate:version", "1"),
        ],
        template: Some(("lt-0aaaaaaaaaaaaaaa5", "1")),
        often: 10,
        most: 2,
        hours: (12, 48),
        ..PLAIN
    },
    Maker {
        name: "EKS Auto Mode",
        arn: "arn:aws:sts::111122223333:assumed-role/AmazonEKSAutoClusterRole/aws-go-sdk-1",
        invoked_by: Some("eks.amazonaws.com"),
        user_agent: "eks.amazonaws.com",
        tags: &[("eks:eks-cluster-name", "auto"), ("karpenter.sh/nodepool", "general-purpose")],
        http_tokens: "required",
        managed_by: Some("eks.amazonaws.com"),
        often: 20,
        hours: (6, 48),
        ..PLAIN
    },
    Maker {
        name: "managed instances with optional tokens",
        arn: "arn:aws:sts::111122223333:assumed-role/ecsInstanceRole/ecs",
        invoked_by: Some("ecs.amazonaws.com"),
        user_agent: "ecs.amazonaws.com",
        tags: &[("AmazonECSManaged", "true")],
        managed_by: Some("ecs.amazonaws.com"),
        often: 5,
        hours: (12, 48),
        ..PLAIN
    },
    Maker {
        name: "Spot",
        arn: "arn:aws:sts::111122223333:assumed-role/AWSServiceRoleForEC2Spot/spot",
        invoked_by: Some("spot.amazonaws.com"),
        user_agent: "spot.amazonaws.com",
        often: 10,
        hours: (1, 8),
        ..PLAIN
    },
    Maker {
        name: "Batch",
        arn: "arn:aws:sts::111122223333:assumed-role/AWSServiceRoleForBatch/batch",
        invoked_by: Some("batch.amazonaws.com"),
        user_agent: "batch.amazonaws.com",
        tags: &[("AWSBatchServiceTag", "batch"), ("aws:autoscaling:groupName", "batch-asg-1")],
        often: 10,
        most: 2,
        hours: (1, 4),
        ..PLAIN
    },
    Maker {
        name: "console",
        arn: "arn:aws:sts::111122223333:assumed-role/operator/night-shift",
        user_agent: "Mozilla/5.0",
        tags: &[("Name", "trial")],
        often: 4,
        hours: (2, 72),
        ..PLAIN
    },
    Maker {
        name: "Terraform",
        arn: "arn:aws:sts::111122223333:assumed-role/terraform/apply",
        user_agent: "APN/1.0 HashiCorp/1.0 Terraform/1.13.3",
        tags: &[("Name", "bastion")],
        often: 5,
        most: 2,
        hours: (24, 96),
        ..PLAIN
    },
    Maker {
        name: "CI role that asks for optional tokens",
        arn: "arn:aws:sts::111122223333:assumed-role/ci-deployer/pipeline-481",
        user_agent: "aws-cli/2.31.18",
        tags: &[("Name", "build")],
        asks: true,
        often: 10,
        hours: (1, 3),
        ..PLAIN
    },
    Maker {
        name: "launches that live for ten minutes",
        arn: "arn:aws:sts::111122223333:assumed-role/ci-deployer/pipeline-482",
        user_agent: "aws-cli/2.31.18",
        tags: &[("Name", "test")],
        often: 20,
        hours: (0, 0),
        ..PLAIN
    },
];

/// The one that launches a thousand at once.
pub(crate) static THOUSAND: Maker = Maker {
    name: "launch of a thousand",
    arn: "arn:aws:sts::111122223333:assumed-role/render/farm",
    user_agent: "Boto3/1.42.0",
    tags: &[("Name", "render")],
    ..PLAIN
};

/// Who changes instances.
pub(crate) const ADMINISTRATOR: &str = "arn:aws:sts::111122223333:assumed-role/admin/day-shift";
pub(crate) const ATTACKER: &str = "arn:aws:sts::111122223333:assumed-role/web-server/i-0aaaaaaaaaaaaaaaa";
pub(crate) const OWNER: &str = "arn:aws:sts::111122223333:assumed-role/team-blue/owner";

/// One launch.
#[derive(Debug, Clone)]
pub(crate) struct Launch {
    pub(crate) maker: &'static Maker,
    pub(crate) ids: Vec<String>,
    pub(crate) uses_no_token: bool,
    pub(crate) refused: bool,
}

/// One thing that happens.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    Launch(Launch),
    Terminate(Vec<String>),
    Stop(String),
    Start(String),
    /// The owner closes the endpoint.
    Close(String),
    /// Somebody makes tokens optional, or opens the endpoint without naming them.
    Loosen {
        id: String,
        by: &'static str,
        opens: bool,
    },
    /// EC2 throttles nearly everything, or no more.
    Throttle(bool),
    /// EC2 fails, or no more.
    Fail(bool),
    /// Something of the deployment does not work, or works again.
    Break(Broken, bool),
}

/// What of a deployment may not work, and no fault of the code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Broken {
    /// Lambda has no concurrency left.
    Concurrency,
    /// The rule of the sweep is disabled.
    SweepRule,
    /// The event source is disabled.
    Source,
    /// The queue's policy admits no rule.
    QueuePolicy,
    /// The dead-letter queue's policy admits no rule.
    DeadLetterPolicy,
    /// The bus refuses results.
    Bus,
    /// `CloudTrail`'s events take most of an hour.
    CloudTrail,
}

/// What happens in the account, and when.
#[derive(Debug)]
pub(crate) struct Script {
    seed: u64,
    pub(crate) days: u64,
    /// What is there before the first day.
    pub(crate) before: Vec<(Instance, Fact)>,
    pub(crate) acts: Vec<(Duration, Act)>,
    /// When nothing new goes wrong.
    pub(crate) quiet: (Duration, Duration),
    /// When EC2 throttles or fails.
    pub(crate) faults: Vec<(Duration, Duration)>,
    /// CloudTrail's events take so many seconds, from the least to the most.
    pub(crate) delay: (u64, u64),
    /// One event in so many is lost.
    pub(crate) lost: u64,
    ids: usize,
}

impl Script {
    /// An account, before anything happens in it.
    fn new(seed: u64, days: u64) -> Self {
        let quiet = (at(days, 0, 0, 0), at(days, 0, 0, 0));
        let (before, acts, faults) = (Vec::new(), Vec::new(), Vec::new());
        let mut script = Self { seed, days, before, acts, quiet, faults, delay: (20, 300), lost: 1000, ids: 0 };
        script.populate();
        script
    }

    /// The month of the account.
    pub(crate) fn month(seed: u64) -> Self {
        let mut script = Self { quiet: (at(10, 0, 0, 0), at(17, 0, 0, 0)), ..Self::new(seed, 30) };
        script.stop_every_night();
        script.launch_all_the_time();
        script.launch_a_thousand(at(3, 11, 2, 30));
        script.change_by_hand();
        script.launch_refused(at(8, 16, 0, 0));
        script.strike(at(5, 14, 0, 0), Act::Throttle);
        script.strike(at(6, 9, 0, 0), Act::Fail);
        script
    }

    /// Two days as any others, with an hour in which EC2 fails, and a launch that a policy refuses.
    pub(crate) fn two_days(seed: u64) -> Self {
        let mut script = Self::new(seed, 2);
        script.stop_every_night();
        script.launch_all_the_time();
        script.launch_refused(at(0, 12, 0, 0));
        script.strike(at(0, 9, 0, 0), Act::Fail);
        script
    }

    /// Two days, in the second of which nothing new goes wrong.
    pub(crate) fn quiet_days(seed: u64) -> Self {
        let mut script = Self { quiet: (at(1, 0, 0, 0), at(2, 0, 0, 0)), ..Self::new(seed, 2) };
        script.stop_every_night();
        script.launch_all_the_time();
        script
    }

    /// A day on which a thousand instances are launched by one call.
    pub(crate) fn day_of_the_thousand(seed: u64) -> Self {
        let mut script = Self::new(seed, 1);
        script.launch_a_thousand(at(0, 11, 2, 30));
        script
    }

    /// An hour in which a thousand nodes are launched within a minute, each by a call of its own, of
    /// which CloudTrail's events arrive within five.
    pub(crate) fn hour_of_nodes(seed: u64) -> Self {
        let mut script = Self { delay: (20, 320), ..Self::new(seed, 1) };
        script.before.clear();
        let mut dice = Dice::of(seed, "nodes");
        for _ in 0..1000 {
            let launch =
                Launch { maker: &MAKERS[3], ids: vec![script.next_id()], uses_no_token: false, refused: false };
            script.acts.push((at(0, 9, 0, 0) + Duration::from_millis(dice.below(60_000)), Act::Launch(launch)));
        }
        script
    }

    /// Whether nothing new goes wrong at a time.
    fn is_quiet(&self, when: Duration) -> bool {
        (self.quiet.0..self.quiet.1).contains(&when)
    }

    /// EC2 throttles or fails for an hour, in which instances are launched all the same: some that live for
    /// seconds, and are forgotten shortly after the hour, and some that stay.
    fn strike(&mut self, begin: Duration, act: fn(bool) -> Act) {
        let end = begin + Duration::from_hours(1);
        self.acts.extend([(begin, act(true)), (end, act(false))]);
        self.faults.push((begin, end));
        for second in [0, 20] {
            let ids = vec![self.next_id()];
            let launch = Launch { maker: &MAKERS[11], ids: ids.clone(), uses_no_token: false, refused: false };
            let when = begin + Duration::from_secs(second);
            self.acts.extend([(when, Act::Launch(launch)), (when + Duration::from_secs(20), Act::Terminate(ids))]);
        }
        for minute in [1, 13, 26, 39, 52] {
            let launch = Launch { maker: &MAKERS[1], ids: vec![self.next_id()], uses_no_token: false, refused: false };
            self.acts.push((begin + Duration::from_mins(minute), Act::Launch(launch)));
        }
    }

    /// A day as any other, on which something happens at nine.
    pub(crate) fn day(seed: u64) -> Self {
        let mut script = Self::new(seed, 1);
        script.launch_all_the_time();
        script
    }

    /// Something does not work from one time to another, while instances are launched.
    pub(crate) fn breaking(mut self, broken: &[Broken], (begin, end): (Duration, Duration)) -> Self {
        for broken in broken {
            self.acts.extend([(begin, Act::Break(*broken, true)), (end, Act::Break(*broken, false))]);
        }
        self.launching((begin, end))
    }

    /// EC2 fails from one time to another, while instances are launched.
    pub(crate) fn failing(mut self, (begin, end): (Duration, Duration)) -> Self {
        self.acts.extend([(begin, Act::Fail(true)), (end, Act::Fail(false))]);
        self.launching((begin, end))
    }

    /// An instance is launched at the beginning, and one every ten minutes.
    fn launching(mut self, (begin, end): (Duration, Duration)) -> Self {
        self.faults.push((begin, end));
        let mut when = begin;
        while when < end {
            let launch = Launch { maker: &MAKERS[1], ids: vec![self.next_id()], uses_no_token: false, refused: false };
            self.acts.push((when, Act::Launch(launch)));
            when += Duration::from_mins(10);
        }
        self
    }

    /// An instance is loosened by somebody at a time.
    pub(crate) fn loosening(mut self, when: Duration, by: &'static str) -> Self {
        let (host, _) = &self.before[self.before.len() - 1];
        self.acts.push((when, Act::Loosen { id: host.instance_id.clone(), by, opens: false }));
        self
    }

    /// A program makes tokens optional again and again, several times a second.
    pub(crate) fn looping(mut self, (begin, end): (Duration, Duration)) -> Self {
        let first = self.before.len() - COMPLIANT;
        let hosts: Vec<_> = self.before[first..].iter().map(|(it, _)| it.instance_id.clone()).collect();
        self.faults.push((begin, end));
        let mut when = begin;
        for id in hosts.iter().cycle() {
            if when >= end {
                break;
            }
            self.acts.push((when, Act::Loosen { id: id.clone(), by: OWNER, opens: false }));
            when += Duration::from_millis(400);
        }
        self
    }

    /// A launch whose instance a policy keeps from being changed.
    pub(crate) fn refusing(mut self, when: Duration) -> Self {
        self.launch_refused(when);
        self
    }

    /// Days on which nothing is launched.
    pub(crate) fn idle(seed: u64, days: u64) -> Self {
        Self::new(seed, days)
    }

    fn next_id(&mut self) -> String {
        self.ids += 1;
        id(self.ids)
    }

    /// Adds an instance that is there before the month, created so many days ago.
    fn add(&mut self, days_ago: i64, change: impl FnOnce(&mut Instance, &mut Fact)) -> String {
        let id = self.next_id();
        let created = first_day() - TimeDelta::days(days_ago);
        let mut instance = Instance::new(&id);
        instance.launch_time = created.to_rfc3339();
        let mut fact = Fact::new(created);
        change(&mut instance, &mut fact);
        self.before.push((instance, fact));
        id
    }

    /// The instances that are there before the month.
    fn populate(&mut self) {
        for _ in 0..LEGACY {
            self.add(500, |_, fact| fact.uses_no_token = true);
        }
        for n in 0..EXEMPT {
            let until = first_day().date_naive()
                + TimeDelta::days(match n {
                    0..5 => 7,
                    5..8 => 19,
                    _ => 60,
                });
            self.add(300, |instance, fact| exempt(instance, fact, until));
        }
        for _ in 0..CLOSED {
            self.add(300, |instance, fact| {
                "disabled".clone_into(&mut instance.metadata_options.http_endpoint);
                fact.closed_since = Some(tokio::time::Instant::now());
            });
        }
        for _ in 0..REFUSED {
            self.add(300, |_, fact| fact.refused = true);
        }
        for _ in 0..OLD {
            self.add(200, |_, _| {});
        }
        for hidden in [true, false] {
            self.add(40, |instance, fact| {
                instance.managed_by = Some("ecs.amazonaws.com".to_owned());
                instance.hidden_by_default = hidden;
                fact.managed = true;
            });
        }
        for _ in 0..COMPLIANT {
            self.add(200, |instance, fact| {
                "required".clone_into(&mut instance.metadata_options.http_tokens);
                fact.required_since = Some(tokio::time::Instant::now());
            });
        }
    }

    /// The legacy hosts are stopped in the evening and started in the morning, weekends too.
    fn stop_every_night(&mut self) {
        let mut dice = Dice::of(self.seed, "nights");
        let hosts: Vec<_> = self.before[..LEGACY].iter().map(|(it, _)| it.instance_id.clone()).collect();
        for day in 0..self.days {
            for host in &hosts {
                self.acts.push((at(day, 20, 0, dice.below(10)), Act::Stop(host.clone())));
                self.acts.push((at(day + 1, 6, 0, dice.below(10)), Act::Start(host.clone())));
            }
        }
    }

    /// Everyone who launches instances does so all the time; in a quiet time, only what requires tokens
    /// or is a service's is launched.
    fn launch_all_the_time(&mut self) {
        for maker in &MAKERS {
            let mut dice = Dice::of(self.seed, maker.name);
            let is_harmless = maker.http_tokens == "required";
            for _ in 0..maker.often * self.days / 10 {
                let when = Duration::from_secs(dice.below(self.days * 86_400));
                let count = dice.between(1, maker.most);
                let (least, most) = maker.hours;
                let lives = Duration::from_mins(10 + dice.between(least * 60, most * 60));
                let uses_no_token = dice.one_in(4);
                // What was launched shortly before is told when CloudTrail's event arrives.
                if is_harmless || !(self.is_quiet(when) || self.is_quiet(when + Duration::from_mins(10))) {
                    let ids: Vec<_> = (0..count).map(|_| self.next_id()).collect();
                    let launch = Launch { maker, ids: ids.clone(), uses_no_token, refused: false };
                    self.acts.push((when, Act::Launch(launch)));
                    self.acts.push((when + lives, Act::Terminate(ids)));
                }
            }
        }
    }

    /// A thousand instances by one call, shortly before a sweep, whose owner closes some endpoints
    /// while they are enforced.
    fn launch_a_thousand(&mut self, when: Duration) {
        let ids: Vec<_> = (0..1000).map(|_| self.next_id()).collect();
        for (n, closed) in ids.iter().rev().take(40).enumerate() {
            let after = Duration::from_secs(40 + 4 * u64::try_from(n).unwrap());
            self.acts.push((when + after, Act::Close(closed.clone())));
        }
        self.acts.push((when + Duration::from_hours(3), Act::Terminate(ids.clone())));
        let launch = Launch { maker: &THOUSAND, ids, uses_no_token: false, refused: false };
        self.acts.push((when, Act::Launch(launch)));
    }

    /// Downgrades, and an endpoint that is opened again.
    fn change_by_hand(&mut self) {
        let first = self.before.len() - COMPLIANT;
        let hosts: Vec<_> = self.before[first..].iter().map(|(it, _)| it.instance_id.clone()).collect();
        let closed: Vec<_> = self.before.iter().filter(|(_, it)| it.closed_since.is_some()).collect();
        let closed = closed[0].0.instance_id.clone();
        for (when, host, by) in [
            (at(7, 10, 20, 0), 0, ADMINISTRATOR),
            (at(8, 3, 11, 0), 1, ATTACKER),
            (at(19, 15, 30, 0), 2, ADMINISTRATOR),
            (at(22, 2, 45, 0), 3, ATTACKER),
        ] {
            self.acts.push((when, Act::Loosen { id: hosts[host].clone(), by, opens: false }));
        }
        self.acts.push((at(9, 12, 0, 0), Act::Loosen { id: closed, by: ADMINISTRATOR, opens: true }));
    }

    /// A launch that a policy refuses to have changed.
    fn launch_refused(&mut self, when: Duration) {
        let ids = vec![self.next_id()];
        let launch = Launch { maker: &MAKERS[1], ids, uses_no_token: false, refused: true };
        self.acts.push((when, Act::Launch(launch)));
    }
}

const LEGACY: usize = 50;
const EXEMPT: usize = 20;
const CLOSED: usize = 30;
const REFUSED: usize = 5;
const OLD: usize = 30;
const COMPLIANT: usize = 40;

/// Exempts an instance until a day.
fn exempt(instance: &mut Instance, fact: &mut Fact, until: NaiveDate) {
    instance.tags = BTreeMap::from([("imds-exemption".to_owned(), format!("{until} waits for a new agent"))]);
    fact.exempt_until = Some(until);
}
