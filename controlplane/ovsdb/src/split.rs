//! Where does one message end and the next begin? JSON-RPC over a stream has no marks between its messages (RFC 7047
//! section 4: JSON-RPC 1.0): each is one JSON object.

use crate::OvsdbError;

/// The longest message, in bytes: the first answer of a switch with some 10,000 ports.
pub const MAX_MESSAGE_BYTES: usize = 8 << 20;
/// The most that the values of a message may weigh, in units of a value: some 128 MiB of memory while it is read. That is
/// a unit for two bytes of the longest message; what a switch tells has three bytes and more for each.
const MAX_WEIGHT: usize = 4 << 20;
/// What an object weighs: its first member brings the room for a few more.
const OBJECT_WEIGHT: usize = 20;

/// Cuts a stream into messages.
#[derive(Debug, Default)]
pub(crate) struct Splitter {
    /// The beginning of a message whose end has not come.
    held: Vec<u8>,
    /// How many brackets are open.
    depth: usize,
    /// What the values so far weigh.
    weight: usize,
    in_text: bool,
    escaped: bool,
}

impl Splitter {
    /// Takes the next bytes, and hands over each message that is whole.
    pub(crate) fn split(
        &mut self,
        bytes: &[u8],
        mut message: impl FnMut(&[u8]) -> Result<(), OvsdbError>,
    ) -> Result<(), OvsdbError> {
        let mut start = 0;
        for (at, &byte) in bytes.iter().enumerate() {
            if self.depth == 0 {
                match byte {
                    b'{' => (self.depth, self.weight, start) = (1, OBJECT_WEIGHT, at),
                    b' ' | b'\t' | b'\r' | b'\n' => {}
                    _ => return Err(OvsdbError::Garbled("a message does not begin with a brace")),
                }
            } else if self.in_text {
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => self.in_text = false,
                    _ => {}
                }
            } else {
                match byte {
                    b'"' => self.in_text = true,
                    b'{' | b'[' => {
                        self.depth += 1;
                        self.weigh(if byte == b'{' { OBJECT_WEIGHT } else { 1 })?;
                    }
                    b'}' | b']' => self.depth -= 1,
                    b',' => self.weigh(1)?,
                    _ => {}
                }
                if self.depth == 0 {
                    self.keep(bytes.get(start..=at).unwrap_or_default())?;
                    message(&std::mem::take(&mut self.held))?;
                }
            }
        }
        if self.depth > 0 {
            self.keep(bytes.get(start..).unwrap_or_default())?;
        }
        Ok(())
    }

    fn weigh(&mut self, weight: usize) -> Result<(), OvsdbError> {
        self.weight += weight;
        if self.weight > MAX_WEIGHT { Err(OvsdbError::TooDense) } else { Ok(()) }
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<(), OvsdbError> {
        if self.held.len() + bytes.len() > MAX_MESSAGE_BYTES {
            return Err(OvsdbError::TooLong);
        }
        self.held.extend_from_slice(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn messages(splitter: &mut Splitter, bytes: &[u8]) -> Result<Vec<Vec<u8>>, OvsdbError> {
        let mut all = Vec::new();
        splitter.split(bytes, |message| {
            all.push(message.to_vec());
            Ok(())
        })?;
        Ok(all)
    }

    #[test]
    fn messages_are_told_apart() {
        let stream = b" {\"a\":\"}\\\"{\"}{} \n{\"b\":[{\"c\":\"\\\\\"},[]]}";
        let all = messages(&mut Splitter::default(), stream).unwrap();
        let expected: [&[u8]; 3] = [br#"{"a":"}\"{"}"#, b"{}", br#"{"b":[{"c":"\\"},[]]}"#];
        assert_eq!(all, expected);
        assert!(matches!(messages(&mut Splitter::default(), b"[1]"), Err(OvsdbError::Garbled(_))));
        assert!(matches!(messages(&mut Splitter::default(), b"{}x"), Err(OvsdbError::Garbled(_))));
    }

    #[test]
    fn a_message_has_an_end() {
        let mut splitter = Splitter::default();
        assert!(messages(&mut splitter, b"{\"a\":\"").unwrap().is_empty());
        let mib = vec![b'x'; 1 << 20];
        for _ in 0..7 {
            assert!(messages(&mut splitter, &mib).unwrap().is_empty());
        }
        assert!(matches!(messages(&mut splitter, &mib), Err(OvsdbError::TooLong)));
    }

    #[test]
    fn values_are_bounded_as_bytes_are() {
        let texts = [b"{\"a\":[".to_vec(), b"\"\",".repeat(2 << 20), b"0]}{}".to_vec()].concat();
        assert_eq!(
            messages(&mut Splitter::default(), &texts).unwrap().len(),
            2,
            "texts of a switch are longer"
        );
        for dense in [&b"{},"[..], b"[],", b"0,"] {
            let mut splitter = Splitter::default();
            assert!(messages(&mut splitter, b"{\"a\":[").unwrap().is_empty());
            let found = messages(&mut splitter, &dense.repeat((MAX_MESSAGE_BYTES - 10) / dense.len()));
            assert!(matches!(found, Err(OvsdbError::TooDense)), "{dense:?}");
        }
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_the_stream_is_cut(
            texts in proptest::collection::vec("[ -~é]{0,12}", 1..6), cuts in proptest::collection::vec(1..9_usize, 1..40)
        ) {
            let objects: Vec<String> =
                texts.iter().map(|text| serde_json::json!({ "k": [text, { "n": 1 }] }).to_string()).collect();
            let stream = objects.join(" ");
            let mut rest = stream.as_bytes();
            let (mut splitter, mut found) = (Splitter::default(), Vec::new());
            for cut in cuts.iter().cycle() {
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                found.extend(messages(&mut splitter, now).unwrap());
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            let found: Vec<String> = found.into_iter().map(|m| String::from_utf8(m).unwrap()).collect();
            prop_assert_eq!(found, objects);
        }
    }
}
