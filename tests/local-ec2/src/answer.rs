//! Answers and errors, in EC2's XML.

use quick_xml::se::to_string_with_root;
use serde::Serialize;

const NAMESPACE: &str = "http://ec2.amazonaws.com/doc/2016-11-15/";

/// The account of documentation's examples.
const OWNER: &str = "111122223333";

/// An error in EC2's form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// The HTTP status.
    pub status: u16,
    /// EC2's error code.
    pub code: String,
    /// For a person.
    pub message: String,
}

impl Error {
    /// An error with the HTTP status that EC2 sends with its code.
    #[must_use]
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        let status = match code {
            "UnauthorizedOperation" => 403,
            "AuthFailure" => 401,
            "DryRunOperation" => 412,
            "RequestLimitExceeded" | "ServiceUnavailable" | "Unavailable" => 503,
            "InternalError" | "InternalFailure" => 500,
            _ => 400,
        };
        Self { status, code: code.to_owned(), message: message.into() }
    }

    /// The body.
    #[must_use]
    pub fn to_xml(&self, request_id: &str) -> String {
        #[derive(Serialize)]
        #[serde(rename_all = "PascalCase")]
        struct Body<'a> {
            errors: Errors<'a>,
            #[serde(rename = "RequestID")]
            request_id: &'a str,
        }
        #[derive(Serialize)]
        #[serde(rename_all = "PascalCase")]
        struct Errors<'a> {
            error: One<'a>,
        }
        #[derive(Serialize)]
        #[serde(rename_all = "PascalCase")]
        struct One<'a> {
            code: &'a str,
            message: &'a str,
        }
        let error = One { code: &self.code, message: &self.message };
        document("Response", &Body { errors: Errors { error }, request_id })
    }
}

/// The answer to a request that succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The answer to `RunInstances`.
    Launched {
        /// What the instances were launched as.
        reservation_id: String,
        /// The instances.
        instances: Vec<InstanceXml>,
    },
    /// The answer to `DescribeInstances`.
    Described {
        /// The page.
        instances: Vec<InstanceXml>,
        /// How to ask for the next.
        next_token: Option<String>,
    },
    /// The answer to `ModifyInstanceMetadataOptions`.
    Modified {
        /// The instance.
        instance_id: String,
        /// Its options, as they will be.
        options: OptionsXml,
    },
    /// The answer to `TerminateInstances`, `StopInstances`, `StartInstances`.
    StateChanged(Vec<StateChangeXml>),
    /// The answer to `CreateTags`.
    Tagged,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Set<T> {
    item: Vec<T>,
}

impl<T> FromIterator<T> for Set<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        Self { item: items.into_iter().collect() }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(clippy::struct_field_names, reason = "EC2's own names")]
struct Reservation {
    reservation_id: String,
    owner_id: &'static str,
    instances_set: Set<InstanceXml>,
}

/// Neighbours that were launched together, as EC2 groups them.
fn reservations(instances: &[InstanceXml]) -> Set<Reservation> {
    let groups = instances.chunk_by(|a, b| a.reservation_id == b.reservation_id);
    groups
        .map(|group| Reservation {
            reservation_id: group[0].reservation_id.clone(),
            owner_id: OWNER,
            instances_set: group.iter().cloned().collect(),
        })
        .collect()
}

/// The body of an answer: a root of its own, the request's id, and the fields that are given.
macro_rules! body {
    ($root:expr, $request_id:expr, $($field:ident: $type:ty = $value:expr),+) => {{
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Body<'a> {
            #[serde(rename = "@xmlns")]
            namespace: &'a str,
            request_id: &'a str,
            $($field: $type),+
        }
        document($root, &Body { namespace: NAMESPACE, request_id: $request_id, $($field: $value),+ })
    }};
}

impl Answer {
    /// The body of the answer to `action`.
    #[must_use]
    pub fn to_xml(self, action: &str, request_id: &str) -> String {
        let root = &format!("{action}Response");
        match self {
            Self::Launched { reservation_id, instances } => body!(
                root,
                request_id,
                reservation_id: String = reservation_id,
                owner_id: &'a str = OWNER,
                instances_set: Set<InstanceXml> = instances.into_iter().collect()
            ),
            Self::Described { instances, next_token: Some(next_token) } => body!(
                root,
                request_id,
                reservation_set: Set<Reservation> = reservations(&instances),
                next_token: String = next_token
            ),
            Self::Described { instances, next_token: None } => {
                body!(root, request_id, reservation_set: Set<Reservation> = reservations(&instances))
            }
            Self::Modified { instance_id, options } => body!(
                root,
                request_id,
                instance_id: String = instance_id,
                instance_metadata_options: OptionsXml = options
            ),
            Self::Tagged => body!(root, request_id, r#return: bool = true),
            Self::StateChanged(changes) => {
                body!(root, request_id, instances_set: Set<StateChangeXml> = changes.into_iter().collect())
            }
        }
    }
}

/// One instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InstanceXml {
    pub(crate) instance_id: String,
    pub(crate) image_id: String,
    pub(crate) instance_state: StateXml,
    pub(crate) instance_type: String,
    pub(crate) launch_time: String,
    pub(crate) metadata_options: OptionsXml,
    root_device_name: &'static str,
    block_device_mapping: Set<BlockDeviceXml>,
    network_interface_set: Set<NetworkInterfaceXml>,
    tag_set: Set<TagXml>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iam_instance_profile: Option<InstanceProfileXml>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) operator: Option<OperatorXml>,
    #[serde(skip)]
    pub(crate) reservation_id: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct InstanceProfileXml {
    arn: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct TagXml {
    key: String,
    value: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct BlockDeviceXml {
    device_name: &'static str,
    ebs: AttachedVolumeXml,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct AttachedVolumeXml {
    attach_time: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct NetworkInterfaceXml {
    attachment: InterfaceAttachmentXml,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct InterfaceAttachmentXml {
    device_index: u8,
    network_card_index: u8,
    attach_time: String,
}

/// The name of every instance's root device.
const ROOT_DEVICE: &str = "/dev/xvda";

impl From<&crate::model::Instance> for InstanceXml {
    fn from(instance: &crate::model::Instance) -> Self {
        let tags = instance.tags.iter().map(|(key, value)| TagXml { key: key.clone(), value: value.clone() });
        let attach_time = instance.attach_time.as_ref().unwrap_or(&instance.launch_time).clone();
        let root = AttachedVolumeXml { attach_time: attach_time.clone() };
        let attachment = InterfaceAttachmentXml { device_index: 0, network_card_index: 0, attach_time };
        Self {
            instance_id: instance.instance_id.clone(),
            image_id: instance.image_id.clone(),
            instance_state: StateXml::of(&instance.state),
            instance_type: instance.instance_type.clone(),
            launch_time: instance.launch_time.clone(),
            metadata_options: OptionsXml::from(&instance.metadata_options),
            root_device_name: ROOT_DEVICE,
            block_device_mapping: [BlockDeviceXml { device_name: ROOT_DEVICE, ebs: root }].into_iter().collect(),
            network_interface_set: [NetworkInterfaceXml { attachment }].into_iter().collect(),
            tag_set: tags.collect(),
            iam_instance_profile: instance.instance_profile.clone().map(|arn| InstanceProfileXml { arn }),
            operator: instance.managed_by.clone().map(|principal| OperatorXml { managed: true, principal }),
            reservation_id: instance.reservation_id.clone(),
        }
    }
}

/// An instance's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StateXml {
    code: u8,
    name: String,
}

impl StateXml {
    pub(crate) fn of(name: &str) -> Self {
        let code = match name {
            "pending" => 0,
            "running" => 16,
            "shutting-down" => 32,
            "terminated" => 48,
            "stopping" => 64,
            _ => 80,
        };
        Self { code, name: name.to_owned() }
    }
}

/// An instance's metadata options.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OptionsXml {
    state: String,
    http_tokens: String,
    http_put_response_hop_limit: u32,
    http_endpoint: String,
    http_protocol_ipv6: String,
    instance_metadata_tags: String,
}

impl From<&crate::model::MetadataOptions> for OptionsXml {
    fn from(options: &crate::model::MetadataOptions) -> Self {
        Self {
            state: options.state.clone(),
            http_tokens: options.http_tokens.clone(),
            http_put_response_hop_limit: options.http_put_response_hop_limit,
            http_endpoint: options.http_endpoint.clone(),
            http_protocol_ipv6: options.http_protocol_ipv6.clone(),
            instance_metadata_tags: options.instance_metadata_tags.clone(),
        }
    }
}

/// The service that manages an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OperatorXml {
    managed: bool,
    principal: String,
}

/// An instance that is changing its state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StateChangeXml {
    pub(crate) instance_id: String,
    pub(crate) current_state: StateXml,
    pub(crate) previous_state: StateXml,
}

fn document(root: &str, body: &impl Serialize) -> String {
    let body = to_string_with_root(root, body).expect("these structures can all be written as XML");
    format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{body}")
}
