//! Faults that were in the function, its templates or its account of the world once: each is put back
//! by a change of one part of the stand, and the month must show it.

/// A fault that is put back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// An instance is as old as its last start.
    LaunchTimeAlone,
    /// Nothing says that a service manages an instance.
    ManagedUnmarked,
    /// Lists are asked for without what services manage.
    ListsHideManaged,
    /// Writes wait for their turn with the description that they had.
    StaleWrites,
    /// A launch's record does not say how its instances came up, so that it attributes none.
    RecordsWithoutOptions,
    /// A launch without ids looks after every instance of the Region.
    CutLaunchesSweep,
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
