//! Whatever a server answers, is it shown without a panic and without harm to the terminal?
//!
//! Answers are made by the descriptors of the protos: any field may be there, with any value.

use proptest::prelude::*;
use prost::Message;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value,
};
use sluice_api::v1;

use crate::commands::{apply, counters, explain, flows, guests, history, object, status, talkers};
use crate::out::{ColorChoice, Out};
use crate::text::harmful;
use crate::{json, show};

/// Numbers that decide what is in an answer (xorshift64*, Vigna 2016).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        let length = u64::try_from(from.len()).unwrap();
        from[usize::try_from(self.next() % length).unwrap()]
    }

    fn number(&mut self) -> u64 {
        let any = self.next();
        self.pick(&[0, 1, 7, any % 1_000, any, u64::MAX, u64::MAX >> 1, 1 << 63, u64::from(u32::MAX)])
    }

    fn text(&mut self) -> String {
        let pieces = [
            "",
            "web",
            "\u{1b}[2J",
            "\u{9b}31m",
            "\u{202e}",
            "\n",
            "\r",
            "é",
            "日本",
            "\0",
            "%s",
            "\u{feff}",
        ];
        (0..self.next() % 5).map(|_| self.pick(&pieces)).collect()
    }

    fn value(&mut self, kind: &Kind, depth: u32) -> Value {
        let number = self.number();
        let [low, high] = [number & 0xffff_ffff, number >> 32].map(|half| u32::try_from(half).unwrap());
        match kind {
            Kind::Message(message) => Value::Message(self.message(message, depth + 1)),
            Kind::Enum(_) => {
                Value::EnumNumber(if high == 0 { (low % 12).cast_signed() } else { low.cast_signed() })
            }
            Kind::String => Value::String(self.text()),
            Kind::Bytes => Value::Bytes(self.text().into_bytes().into()),
            Kind::Bool => Value::Bool(number.is_multiple_of(2)),
            Kind::Double => Value::F64(f64::from_bits(number)),
            Kind::Float => Value::F32(f32::from_bits(low)),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(low.cast_signed()),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(number.cast_signed()),
            Kind::Uint32 | Kind::Fixed32 => Value::U32(low),
            Kind::Uint64 | Kind::Fixed64 => Value::U64(number),
        }
    }

    fn field(&mut self, field: &FieldDescriptor, depth: u32) -> Value {
        if let (true, Kind::Message(entry)) = (field.is_map(), field.kind()) {
            let kind = entry.map_entry_value_field().kind();
            let entries =
                (0..self.next() % 4).map(|_| (MapKey::String(self.text()), self.value(&kind, depth)));
            return Value::Map(entries.collect());
        }
        if field.is_list() {
            return Value::List((0..self.next() % 4).map(|_| self.value(&field.kind(), depth)).collect());
        }
        self.value(&field.kind(), depth)
    }

    fn message(&mut self, descriptor: &MessageDescriptor, depth: u32) -> DynamicMessage {
        let mut message = DynamicMessage::new(descriptor.clone());
        for field in descriptor.fields() {
            if depth < 6 && !self.next().is_multiple_of(4) {
                let value = self.field(&field, depth);
                message.set_field(&field, value);
            }
        }
        message
    }

    /// An answer of the type `name`.
    fn answer<M: Message + Default>(&mut self, pool: &DescriptorPool, name: &str) -> M {
        let descriptor = pool.get_message_by_name(&format!("sluice.v1.{name}")).unwrap();
        let message = M::decode(self.message(&descriptor, 0).encode_to_vec().as_slice()).unwrap();
        harmless(&json::text(name, &message, true).unwrap());
        message
    }
}

fn harmless(text: &str) {
    assert!(!text.chars().any(|character| harmful(character) && character != '\n'), "{text:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn answers_are_shown_without_harm(seed in 1u64..) {
        let pool = DescriptorPool::decode(sluice_api::FILE_DESCRIPTOR_SET).unwrap();
        let out = Out::new(false, ColorChoice::Never);
        let n = &mut Numbers(seed);
        harmless(&status::shown(&n.answer(&pool, "Status"), out));
        harmless(&status::shown_ports(&n.answer(&pool, "ListPortsResponse"), true));
        harmless(&guests::shown(&n.answer(&pool, "ListGuestsResponse")));
        harmless(&status::shown_workers(&n.answer(&pool, "ListWorkersResponse")));
        harmless(&counters::shown(&n.answer(&pool, "Counters"), out));
        harmless(&explain::shown(&n.answer(&pool, "ExplainResponse"), out));
        harmless(&flows::shown(&n.answer(&pool, "ListFlowsResponse")));
        harmless(&talkers::shown(&n.answer(&pool, "ListTopTalkersResponse")));
        harmless(&history::generations(&n.answer::<v1::ListGenerationsResponse>(&pool, "ListGenerationsResponse").generations));
        harmless(&apply::plan(&n.answer(&pool, "DryRunPlan"), out));
        harmless(&apply::live(&n.answer(&pool, "LiveCounts")));
        harmless(&show::diff(&n.answer(&pool, "Diff"), out));
        let (policy, destination) = (n.answer(&pool, "Policy"), n.answer(&pool, "Destination"));
        for cell in object::policy_row(&policy).iter().chain(&object::destination_row(&destination)) {
            harmless(cell);
        }
    }
}
