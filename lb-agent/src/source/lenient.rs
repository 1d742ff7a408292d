//! Deserialisation that never fails on a field.
//!
//! One object that does not deserialize would cost a whole page of a list, or silently an event
//! of a watch. So every field of the slim types is a [`Lenient`]: what does not fit is kept as a
//! message, and the rest of the object, and of the list, is read on.

use std::{collections::BTreeMap, fmt, marker::PhantomData};

use serde::{
    Deserialize,
    de::{
        Deserializer, Error as _, IgnoredAny, IntoDeserializer, MapAccess, SeqAccess, Unexpected,
        Visitor, value,
    },
    forward_to_deserialize_any,
};

/// A field that may be missing or wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Lenient<T> {
    /// The field is missing, or `null`.
    #[default]
    Absent,
    /// The field is there and fits.
    Valid(T),
    /// The field is there and does not fit; says why.
    Invalid(String),
}

/// A field that is a list; each element may be wrong on its own.
pub type List<T> = Lenient<Vec<Lenient<T>>>;

/// A field that maps names to strings, such as labels.
pub type Strings = Lenient<BTreeMap<String, Lenient<String>>>;

impl<T> Lenient<T> {
    /// The value, if there is one that fits.
    pub fn valid(&self) -> Option<&T> {
        match self {
            Self::Valid(value) => Some(value),
            Self::Absent | Self::Invalid(_) => None,
        }
    }

    /// Whether the field is there, whatever it holds.
    pub fn is_present(&self) -> bool {
        !matches!(self, Self::Absent)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Lenient<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LenientVisitor(PhantomData))
    }
}

struct LenientVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> LenientVisitor<T> {
    fn scalar(self, scalar: impl IntoDeserializer<'de, value::Error>) -> Lenient<T> {
        match T::deserialize(scalar.into_deserializer()) {
            Ok(value) => Lenient::Valid(value),
            Err(error) => Lenient::Invalid(error.to_string()),
        }
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for LenientVisitor<T> {
    type Value = Lenient<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Lenient::Absent)
    }

    fn visit_none<E>(self) -> Result<Self::Value, E> {
        Ok(Lenient::Absent)
    }

    fn visit_bool<E>(self, scalar: bool) -> Result<Self::Value, E> {
        Ok(self.scalar(scalar))
    }

    fn visit_i64<E>(self, scalar: i64) -> Result<Self::Value, E> {
        Ok(self.scalar(scalar))
    }

    fn visit_u64<E>(self, scalar: u64) -> Result<Self::Value, E> {
        Ok(self.scalar(scalar))
    }

    fn visit_f64<E>(self, scalar: f64) -> Result<Self::Value, E> {
        Ok(self.scalar(scalar))
    }

    fn visit_str<E>(self, scalar: &str) -> Result<Self::Value, E> {
        // Owned, because a `&str` deserializer would ask for the input's lifetime.
        Ok(self.scalar(scalar.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let value = match T::deserialize(OnlySequence(&mut seq)) {
            Ok(value) => Lenient::Valid(value),
            Err(error) => Lenient::Invalid(error.to_string()),
        };
        // Whatever `T` left unread has to be read past, or the parser loses its place.
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(value)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let value = match T::deserialize(value::MapAccessDeserializer::new(&mut map)) {
            Ok(value) => Lenient::Valid(value),
            Err(error) => Lenient::Invalid(error.to_string()),
        };
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(value)
    }
}

/// A sequence that does not pass for a struct; serde would take its elements for the fields.
struct OnlySequence<A>(A);

impl<'de, A: SeqAccess<'de>> Deserializer<'de> for OnlySequence<A> {
    type Error = A::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, A::Error> {
        visitor.visit_seq(self.0)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        Err(A::Error::invalid_type(Unexpected::Seq, &visitor))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        option unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier
        ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, Default, Deserialize, PartialEq)]
    #[serde(default)]
    struct Inner {
        port: Lenient<i64>,
        names: List<String>,
    }

    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(default)]
    struct Outer {
        inner: Lenient<Inner>,
        last: Lenient<bool>,
    }

    /// Reads two objects and returns the first; the second, a good one, must be untouched.
    #[track_caller]
    fn read(first: &str) -> Lenient<Outer> {
        let text = format!(r#"[{first}, {{"last": true}}]"#);
        let mut list: Vec<Lenient<Outer>> = serde_json::from_str(&text).unwrap();
        let second = list.pop().unwrap();
        assert_eq!(second.valid().unwrap().last, Lenient::Valid(true));
        list.pop().unwrap()
    }

    #[track_caller]
    fn inner(text: &str) -> Lenient<Inner> {
        let outer = read(&format!(r#"{{"inner": {text}, "last": false}}"#));
        let outer = outer.valid().unwrap();
        assert_eq!(outer.last, Lenient::Valid(false));
        outer.inner.clone()
    }

    #[test]
    fn a_wrong_scalar_costs_its_field_only() {
        let read = inner(r#"{"port": "x", "names": ["a", 1, "b", {"c": [1]}]}"#);
        let read = read.valid().unwrap();
        assert!(matches!(&read.port, Lenient::Invalid(why) if why.contains("expected i64")));
        let names = read.names.valid().unwrap();
        let valid: Vec<_> = names.iter().filter_map(Lenient::valid).collect();
        assert_eq!(
            (names.len(), valid),
            (4, vec![&"a".to_owned(), &"b".to_owned()])
        );
    }

    #[test]
    fn the_wrong_shape_costs_its_field_only() {
        for text in [
            "[]",
            "[1, [2, {\"port\": 3}], 4]",
            "7",
            "-7",
            "0.5",
            "true",
            "\"text\"",
        ] {
            assert!(matches!(inner(text), Lenient::Invalid(_)), "{text}");
        }
        let wrong = r#"{"port": {"a": {"b": [1, 2]}, "c": 1}, "names": {"a": {"b": 1}}}"#;
        let read = inner(wrong);
        let read = read.valid().unwrap();
        assert!(matches!(read.port, Lenient::Invalid(_)));
        assert!(matches!(read.names, Lenient::Invalid(_)));
    }

    #[test]
    fn null_and_missing_are_the_same() {
        assert_eq!(inner("null"), Lenient::Absent);
        assert_eq!(inner("{}"), inner(r#"{"port": null, "names": null}"#));
    }

    #[test]
    fn an_object_that_is_no_object_is_invalid() {
        for text in ["null", "3", "[]", "[{}, 4]", "\"x\""] {
            assert!(read(text).valid().is_none(), "{text}");
        }
    }
}
