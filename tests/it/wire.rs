//! The public API stays compatible on the wire: everything in the last release still exists, with its number and type.
//!
//! `tests/data/wire/frameshift.v1.txt` is the API of the last release, one line for each field, value and method. A release updates it with
//! `FRAMESHIFT_RENEW_WIRE=1 cargo test --test it the_api_of_the_last_release`, and the difference is reviewed with the release.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet};

fn baseline() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/wire/frameshift.v1.txt")
}

/// Returns what callers rely on, one line each.
fn surface(set: &FileDescriptorSet) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    let ours = |file: &&FileDescriptorProto| file.package().starts_with("frameshift.");
    for file in set.file.iter().filter(ours) {
        let package = file.package();
        for message in &file.message_type {
            fields(
                &format!("{package}.{}", message.name()),
                message,
                &mut lines,
            );
        }
        for of_file in &file.enum_type {
            values(
                &format!("{package}.{}", of_file.name()),
                of_file,
                &mut lines,
            );
        }
        for service in &file.service {
            for method in &service.method {
                let stream = |is: bool| if is { "stream " } else { "" };
                lines.insert(format!(
                    "rpc {package}.{}.{}({}{}) returns ({}{})",
                    service.name(),
                    method.name(),
                    stream(method.client_streaming()),
                    method.input_type(),
                    stream(method.server_streaming()),
                    method.output_type(),
                ));
            }
        }
    }
    lines
}

fn fields(path: &str, message: &DescriptorProto, lines: &mut BTreeSet<String>) {
    lines.insert(format!("message {path}"));
    for field in &message.field {
        let kind = match field.type_name() {
            "" => format!("{:?}", field.r#type()).to_lowercase(),
            named => named.to_owned(),
        };
        // An optional field and a choice of several fields are both oneofs.
        let oneof = field
            .oneof_index
            .map_or("", |at| message.oneof_decl[at as usize].name());
        let many = if field.label() == Label::Repeated {
            "repeated "
        } else {
            ""
        };
        let choice = if oneof.is_empty() {
            String::new()
        } else {
            format!(" in {oneof}")
        };
        let (name, number) = (field.name(), field.number());
        lines.insert(format!(
            "field {path}.{name} = {number}: {many}{kind}{choice}"
        ));
    }
    for nested in &message.nested_type {
        fields(&format!("{path}.{}", nested.name()), nested, lines);
    }
    for nested in &message.enum_type {
        values(&format!("{path}.{}", nested.name()), nested, lines);
    }
}

fn values(path: &str, of: &EnumDescriptorProto, lines: &mut BTreeSet<String>) {
    for value in &of.value {
        lines.insert(format!(
            "value {path}.{} = {}",
            value.name(),
            value.number()
        ));
    }
}

/// Returns what the released API had and this one lacks.
fn broken(released: &BTreeSet<String>, now: &BTreeSet<String>) -> Vec<String> {
    released.difference(now).cloned().collect()
}

#[test]
fn the_api_of_the_last_release_is_all_there() {
    let set = FileDescriptorSet::decode(frameshift::proto::DESCRIPTORS).expect("descriptors");
    let now = surface(&set);
    if std::env::var_os("FRAMESHIFT_RENEW_WIRE").is_some() {
        let text: String = now.iter().map(|line| format!("{line}\n")).collect();
        std::fs::write(baseline(), text).expect("the baseline is writable");
    }
    let text = std::fs::read_to_string(baseline()).expect("the baseline is readable");
    let released: BTreeSet<String> = text.lines().map(str::to_owned).collect();
    assert!(released.len() > 200, "{} lines", released.len());
    let broken = broken(&released, &now);
    assert!(
        broken.is_empty(),
        "removed, renumbered or retyped:\n{}",
        broken.join("\n")
    );
}

#[test]
fn a_change_that_breaks_callers_is_seen() {
    let set = FileDescriptorSet::decode(frameshift::proto::DESCRIPTORS).expect("descriptors");
    let released = surface(&set);
    let task = |set: &FileDescriptorSet| -> (usize, usize) {
        let has = |file: &FileDescriptorProto| {
            file.message_type
                .iter()
                .position(|message| message.name() == "Task")
        };
        let mut found = set.file.iter().enumerate();
        found
            .find_map(|(at, file)| Some((at, has(file)?)))
            .expect("a Task")
    };
    let (file, message) = task(&set);
    let changes: [fn(&mut DescriptorProto); 5] = [
        |task| task.field[0].number = Some(99),
        |task| task.field[0].set_type(Type::Bytes),
        |task| task.field[0].set_label(Label::Repeated),
        |task| task.field[0].name = Some("other".into()),
        |task| drop(task.field.remove(0)),
    ];
    for change in changes {
        let mut changed = set.clone();
        change(&mut changed.file[file].message_type[message]);
        assert_eq!(broken(&released, &surface(&changed)).len(), 1);
    }
    let mut changed = set.clone();
    for file in &mut changed.file {
        if let Some(service) = file.service.first_mut() {
            service.method.remove(0);
            break;
        }
    }
    assert_eq!(broken(&released, &surface(&changed)).len(), 1);
    // An addition breaks nobody.
    let mut grown = set.clone();
    let field = grown.file[file].message_type[message].field[0].clone();
    let added = prost_types::FieldDescriptorProto {
        name: Some("added".into()),
        number: Some(500),
        ..field
    };
    grown.file[file].message_type[message].field.push(added);
    assert_eq!(broken(&released, &surface(&grown)), Vec::<String>::new());
}
