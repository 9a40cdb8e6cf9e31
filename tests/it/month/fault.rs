//! Faults that were in the function, its templates or its account of the world once: each is put back
//! by a change of one part of the stand, and the month must show it.

/// A fault that is put back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// An instance is as old as its last start.
    LaunchTimeAlone,
    /// Nothing says that a service manages an instance.
    ManagedUnmarked,
    /// Descriptions have no tags.
    TagsUnread,
    /// Lists are asked for without what services manage.
    ListsHideManaged,
    /// An instance is described as it was when it was described first within a minute.
    StaleDescriptions,
    /// A launch's record does not say how its instances came up, so that it attributes none.
    RecordsWithoutOptions,
    /// A launch without ids looks after every instance of the Region.
    CutLaunchesSweep,
    /// A sweep enforces all that it finds.
    NoPace,
    /// Whatever an event names must exist, however old the event is.
    EventsNeverOld,
    /// What EC2 refuses comes back to the queue.
    RefusedComeBack,
    /// A sweep fails if EC2 refused anything.
    SweepsFailForRefusals,
    /// Launches invoke the function directly.
    DirectLaunches,
    /// A message is dead after half an hour.
    FewReceives,
    /// An alarm is on what a sweep finds again each hour.
    AlarmOnEveryRefusal,
    /// Every result is a message to people.
    EveryResultIsAMessage,
    /// Nothing but CloudTrail says that there are instances.
    NothingButCloudTrail,
    /// Messages wait for half a minute to be gathered.
    LongWindow,
}

impl Fault {
    /// What it is, for the table.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::LaunchTimeAlone => "an instance counts as new after each start",
            Self::ManagedUnmarked => "a managed instance is not known as one",
            Self::TagsUnread => "no tag of an instance is read",
            Self::ListsHideManaged => "lists leave out what services manage",
            Self::StaleDescriptions => "a write rests on what was described up to a minute before",
            Self::RecordsWithoutOptions => "CloudTrail's event of a launch that is mended already says nothing",
            Self::CutLaunchesSweep => "a launch without ids looks after the whole Region, with the sweep off",
            Self::NoPace => "a sweep enforces all that it finds",
            Self::EventsNeverOld => "what an event names must exist for ever",
            Self::RefusedComeBack => "what EC2 refuses comes back to the queue",
            Self::SweepsFailForRefusals => "a sweep fails for what EC2 refuses",
            Self::DirectLaunches => "launches invoke the function directly",
            Self::FewReceives => "a message is dead after five receives, six minutes apart",
            Self::AlarmOnEveryRefusal => "an alarm is on the failures that each sweep finds again",
            Self::EveryResultIsAMessage => "every result is a message to people",
            Self::NothingButCloudTrail => {
                "neither state changes nor the sweep are received, and one event in ten is lost"
            }
            Self::LongWindow => "batches are gathered for a minute",
        }
    }
}
