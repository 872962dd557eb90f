//! The RPCs that name something that exists, told by their descriptions.

use std::collections::HashMap;

use frameshift::proto::DESCRIPTORS;
use prost::Message;
use prost_types::field_descriptor_proto::Type;
use prost_types::{DescriptorProto, FileDescriptorProto, FileDescriptorSet};

/// Fields by which a request names something that exists.
const NAMES: [&str; 10] = [
    "dataset", "from", "name", "parent", "task", "tasks", "to", "version", "video", "videos",
];

/// The service of operators, which is on an address of its own and names tenants and keys.
const OPERATORS: &str = "AdminService";

/// RPCs whose request holds the resource that they make: its name is the server's to give.
const MAKING: [&str; 1] = ["create_task"];

/// The RPCs of the API that name something that exists, as the client calls them: told by the fields of their requests.
pub(super) fn naming() -> Vec<String> {
    let set = FileDescriptorSet::decode(DESCRIPTORS).unwrap();
    let ours = |file: &&FileDescriptorProto| file.package().starts_with("frameshift.");
    let messages: HashMap<String, &DescriptorProto> = set
        .file
        .iter()
        .filter(ours)
        .flat_map(|file| {
            let path =
                |message: &DescriptorProto| format!(".{}.{}", file.package(), message.name());
            file.message_type
                .iter()
                .map(move |message| (path(message), message))
        })
        .collect();
    let services = set.file.iter().filter(ours).flat_map(|file| &file.service);
    let services = services.filter(|service| service.name() != OPERATORS);
    services
        .flat_map(|service| &service.method)
        .filter(|method| names(&messages, method.input_type()))
        .map(|method| snake(method.name()))
        .filter(|method| !MAKING.contains(&method.as_str()))
        .collect()
}

/// Whether a message, or one within it, has a text field that names something.
fn names(messages: &HashMap<String, &DescriptorProto>, message: &str) -> bool {
    let Some(message) = messages.get(message) else {
        return false;
    };
    message.field.iter().any(|field| {
        let is_name = field.r#type() == Type::String && NAMES.contains(&field.name());
        is_name || names(messages, field.type_name())
    })
}

/// `GetVideo` as `get_video`.
fn snake(name: &str) -> String {
    let mut text = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !text.is_empty() {
            text.push('_');
        }
        text.extend(letter.to_lowercase());
    }
    text
}
