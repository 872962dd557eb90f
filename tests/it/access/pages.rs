//! Page tokens of every listing: each method of the descriptors that takes one refuses what was not sealed for its caller.

use bytes::{Buf, BufMut};
use prost::DecodeError;
use prost::encoding::{DecodeContext, WireType};
use tonic_types::StatusExt as _;

use super::*;

/// A message of one text field, whatever its number.
#[derive(Debug, Default)]
struct Text(u32, String);

impl Message for Text {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        prost::encoding::string::encode(self.0, &self.1, buffer);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire: WireType,
        buffer: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        prost::encoding::skip_field(wire, tag, buffer, context)
    }

    fn encoded_len(&self) -> usize {
        prost::encoding::string::encoded_len(self.0, &self.1)
    }

    fn clear(&mut self) {
        self.1.clear();
    }
}

/// Paths of the methods whose requests have a page token, each with the number of that field.
fn listings() -> Vec<(String, u32)> {
    let set = prost_types::FileDescriptorSet::decode(frameshift::proto::DESCRIPTORS).unwrap();
    let mut found = Vec::new();
    for file in &set.file {
        for service in &file.service {
            for method in &service.method {
                let input = method.input_type().rsplit('.').next();
                let message = file
                    .message_type
                    .iter()
                    .find(|own| Some(own.name()) == input);
                let fields = &message.expect("a message of the same file").field;
                let Some(token) = fields.iter().find(|own| own.name() == "page_token") else {
                    continue;
                };
                let service = format!("{}.{}", file.package(), service.name());
                found.push((
                    format!("/{service}/{}", method.name()),
                    token.number() as u32,
                ));
            }
        }
    }
    found
}

async fn ask(raw: &Raw, key: &str, (path, field): &(String, u32), token: &str) -> Status {
    let is_admin = path.contains(".AdminService/");
    let channel = if is_admin { &raw.admin } else { &raw.own };
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.unwrap();
    let mut request = Request::new(Text(*field, token.to_owned()));
    let bearer = format!("Bearer {key}").parse().unwrap();
    request.metadata_mut().insert("authorization", bearer);
    let codec = tonic_prost::ProstCodec::<Text, ()>::default();
    let path = PathAndQuery::try_from(path.as_str()).unwrap();
    let answer = grpc.unary(request, path, codec).await;
    answer.expect_err("a token of nobody")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_listing_refuses_tokens_that_were_not_sealed_for_its_caller() {
    let guarded = Guarded::start().await;
    let raw = Raw::of(&guarded).await;
    let own = guarded.key(Scopes::TENANT).await;
    let operator = guarded.key(Scopes::of(&[Scope::FleetAdmin])).await;
    let globex = guarded.key_of("globex", Scopes::TENANT).await;
    let globex = guarded.client(&globex).await;
    for task in ["one", "two"] {
        create_task(&globex, task).await;
    }
    let list = v1::ListTasksRequest {
        page_size: 1,
        page_token: String::new(),
    };
    let listed = globex.tasks().list_tasks(list).await.unwrap().into_inner();
    let foreign = listed.next_page_token;
    assert!(!foreign.is_empty());
    let listings = listings();
    assert!(listings.len() >= 16, "{listings:?}");
    for listing in &listings {
        let key = match listing.0.contains(".AdminService/") {
            true => &operator,
            false => &own,
        };
        // One of another tenant, a place that nobody sealed, and nonsense.
        for token in [foreign.as_str(), "dGFza3M6b25l", "!"] {
            let status = ask(&raw, key, listing, token).await;
            let path = &listing.0;
            assert_eq!(status.code(), Code::InvalidArgument, "{path}: {status:?}");
            let details = status.get_error_details();
            let fields = &details.bad_request().expect("fields").field_violations;
            assert_eq!(fields[0].field, "page_token", "{path}: {status:?}");
        }
    }
    guarded.server.stop().await;
}
