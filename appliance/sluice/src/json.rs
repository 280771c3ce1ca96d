//! How does a message look for scripts? With the names of its fields in the protos, numbers as numbers.

use std::sync::LazyLock;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};

use crate::failure::Failure;
use crate::text::harmful;

/// The types of all messages.
static POOL: LazyLock<Option<DescriptorPool>> =
    LazyLock::new(|| DescriptorPool::decode(sluice_api::FILE_DESCRIPTOR_SET).ok());

/// The message as one JSON object; `name` is that of its type in the protos. Every field is there, also those that have
/// their default.
pub(crate) fn text<M: Message>(name: &str, message: &M, pretty: bool) -> Result<String, Failure> {
    let broken = |error: &dyn std::fmt::Display| Failure::failed(format!("cannot write JSON: {error}"));
    let pool = POOL.as_ref().ok_or_else(|| broken(&"no descriptors"))?;
    let descriptor =
        pool.get_message_by_name(&format!("sluice.v1.{name}")).ok_or_else(|| broken(&"no such message"))?;
    let message = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice())
        .map_err(|error| broken(&error))?;
    let options = SerializeOptions::new()
        .use_proto_field_name(true)
        .stringify_64_bit_integers(false)
        .skip_default_fields(false);
    let mut bytes = Vec::new();
    let written = if pretty {
        message.serialize_with_options(&mut serde_json::Serializer::pretty(&mut bytes), &options)
    } else {
        message.serialize_with_options(&mut serde_json::Serializer::new(&mut bytes), &options)
    };
    written.map_err(|error| broken(&error))?;
    Ok(escaped(&String::from_utf8_lossy(&bytes)))
}

/// JSON without characters that a terminal might act on: serde_json leaves DEL and C1 as they are.
pub(crate) fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for character in json.chars() {
        if harmful(character) && character != '\n' {
            text.extend(format!("\\u{:04x}", u32::from(character)).chars());
        } else {
            text.push(character);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_api::v1;

    #[test]
    fn names_are_those_of_the_protos() {
        let change = v1::Change { name: "a\u{9b}\u{1b}\"".into(), kind: 3, ..v1::Change::default() };
        let text = text("Change", &change, false).unwrap();
        assert!(!text.chars().any(harmful), "{text}");
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read["name"], "a\u{9b}\u{1b}\"");
        assert_eq!(read["kind"], "OBJECT_KIND_POLICY");
        assert_eq!(read["fields"], serde_json::json!([]));
        let counters = v1::Counters { generation: 7, ..v1::Counters::default() };
        let read: serde_json::Value =
            serde_json::from_str(&super::text("Counters", &counters, true).unwrap()).unwrap();
        assert_eq!(read["generation"], 7);
    }
}
