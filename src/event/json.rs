//! Two ways to read JSON: strictly, with the place of what is wrong, and tolerantly.
//!
//! What is read tolerantly stands in JSON that was found well-formed before. [`Level`] reads an
//! object there and [`Raw`] a value of any shape; whatever has another shape than expected is
//! absent. Only texts are copied, and lists are not kept: [`OneOrMany`] hands on item by item.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::EventError;

/// Longest text that is taken over from an event: an ARN has at most 2,048 characters.
pub(super) const TEXT_CHARS: usize = 2048;

/// The text, cut at [`TEXT_CHARS`] characters.
pub(super) fn clip(text: &str) -> String {
    // No text has more characters than bytes.
    if text.len() <= TEXT_CHARS { text.to_owned() } else { text.chars().take(TEXT_CHARS).collect() }
}

/// Reads an event's JSON, which must have the shape of `T`, and says where it has not.
pub(super) fn strict<'a, T: Deserialize<'a>>(json: &'a str) -> Result<T, EventError> {
    must_be_object(json, ".")?;
    serde_json::from_str(json).map_err(|error| located::<T>(json, &error))
}

/// Reads an object that is read tolerantly below its own level, so that nothing in it has a place of
/// its own. `place` is its place in the event.
pub(super) fn object<'a, T: Deserialize<'a>>(json: &'a str, place: &str) -> Result<T, EventError> {
    must_be_object(json, place)?;
    serde_json::from_str(json).map_err(|error| unreadable(place, &error))
}

fn must_be_object(json: &str, place: &str) -> Result<(), EventError> {
    if json.trim_start().starts_with('{') {
        return Ok(());
    }
    Err(EventError::unreadable(place, "a JSON object belongs here"))
}

/// The error with its place. The JSON is read again for it: keeping track of the place would cost
/// every event what only a refused one needs.
fn located<'a, T: Deserialize<'a>>(json: &'a str, error: &serde_json::Error) -> EventError {
    match serde_path_to_error::deserialize::<_, T>(&mut serde_json::Deserializer::from_str(json)) {
        Err(error) => unreadable(&error.path().to_string(), error.inner()),
        // The object is right; something follows it.
        Ok(_) => unreadable("", error),
    }
}

fn unreadable(path: &str, error: &serde_json::Error) -> EventError {
    // serde_path_to_error ends a path that it can't follow further with a question mark.
    let path = path.trim_end_matches('?').trim_matches('.');
    EventError::unreadable(if path.is_empty() { ".".to_owned() } else { clip(path) }, clip(&error.to_string()))
}

/// A value of any shape. Null is as good as absent.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(super) struct Raw<'a>(#[serde(borrow)] Option<&'a RawValue>);

impl<'a> Raw<'a> {
    pub(super) fn is_some(self) -> bool {
        self.0.is_some()
    }

    /// This value, or where it is absent the other.
    pub(super) fn or(self, other: Self) -> Self {
        Self(self.0.or(other.0))
    }

    /// The JSON as it stands in the event.
    pub(super) fn json(self) -> Option<&'a str> {
        self.0.map(RawValue::get)
    }

    /// The text, if it is one.
    pub(super) fn str(self) -> Option<Cow<'a, str>> {
        let json = self.json()?;
        // A text without escapes stands in the JSON as it is.
        let borrowed = serde_json::from_str(json).map(Cow::Borrowed);
        borrowed.or_else(|_| serde_json::from_str(json).map(Cow::Owned)).ok()
    }

    /// The text, if it is one, cut at [`TEXT_CHARS`] characters.
    pub(super) fn text(self) -> Option<String> {
        self.str().map(|text| clip(&text))
    }

    /// Whether it is this text.
    pub(super) fn is(self, text: &str) -> bool {
        self.str().is_some_and(|it| it == text)
    }

    /// Whether it is `true`, however that is spelled: CloudTrail also writes it as text.
    pub(super) fn is_true(self) -> bool {
        self.json().is_some_and(|json| json.trim_matches('"').eq_ignore_ascii_case("true"))
    }
}

/// An object, of which every field may be absent. Anything else is as good as absent, and so is an
/// object that has a field of `T` twice. What can't be skipped is an error: half a surrogate pair in
/// the name of a field, and in the object's place a text with one or a number beyond `f64`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Level<T>(pub(super) Option<T>);

/// An object that CloudTrail may have cut.
#[derive(Debug)]
pub(super) struct Cuttable<T> {
    /// What is there of it.
    pub(super) object: Option<T>,
    /// Whether it is all there; an absent one is.
    pub(super) is_whole: bool,
}

/// What becomes of the objects of a list.
pub(super) trait Collect: Default {
    /// One of the objects.
    type Item<'a>: Deserialize<'a>;

    /// Takes one of them, or what stands in the place of one and is no object.
    fn add(&mut self, item: Option<Self::Item<'_>>);
}

/// The objects of a list, or the single one that stands in its place.
#[derive(Debug, Default)]
pub(super) struct OneOrMany<C>(pub(super) C);

impl<T> Default for Level<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> Default for Cuttable<T> {
    fn default() -> Self {
        Self { object: None, is_whole: true }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Level<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ShapeVisitor(PhantomData))
    }
}

impl<'de, C: Collect> Deserialize<'de> for OneOrMany<C> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ShapeVisitor(PhantomData))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Cuttable<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Some(json) = Raw::deserialize(deserializer)?.json() else {
            return Ok(Self::default());
        };
        let object = serde_json::from_str(json).ok().and_then(|Level(object)| object);
        let is_whole = object.is_some() && !json.contains("\"omitted\"");
        Ok(Self { object, is_whole })
    }
}

/// What can be read from JSON of every shape. Null is the default.
trait FromShape<'de>: Default {
    fn from_scalar() -> Self;
    fn from_list<A: SeqAccess<'de>>(list: A) -> Result<Self, A::Error>;
    fn from_object<A: MapAccess<'de>>(object: A) -> Result<Self, A::Error>;
}

impl<'de, T: Deserialize<'de>> FromShape<'de> for Level<T> {
    fn from_scalar() -> Self {
        Self(None)
    }

    fn from_list<A: SeqAccess<'de>>(mut list: A) -> Result<Self, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Self(None))
    }

    fn from_object<A: MapAccess<'de>>(object: A) -> Result<Self, A::Error> {
        let mut fields = Fields { object, is_before_value: false };
        match T::deserialize(MapAccessDeserializer::new(&mut fields)) {
            Ok(value) => Ok(Self(Some(value))),
            // `T` had the field's name and did not ask for the value: it has that field already.
            Err(_) if fields.is_before_value => fields.skip().map(|()| Self(None)),
            Err(error) => Err(error),
        }
    }
}

impl<'de, C: Collect> FromShape<'de> for OneOrMany<C> {
    fn from_scalar() -> Self {
        let mut items = C::default();
        items.add(None);
        Self(items)
    }

    fn from_list<A: SeqAccess<'de>>(mut list: A) -> Result<Self, A::Error> {
        let mut items = C::default();
        while let Some(Level(item)) = list.next_element::<Level<C::Item<'de>>>()? {
            items.add(item);
        }
        Ok(Self(items))
    }

    fn from_object<A: MapAccess<'de>>(object: A) -> Result<Self, A::Error> {
        let mut items = C::default();
        items.add(Level::from_object(object)?.0);
        Ok(Self(items))
    }
}

/// Finds the shape of the JSON.
struct ShapeVisitor<T>(PhantomData<T>);

impl<'de, T: FromShape<'de>> Visitor<'de> for ShapeVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_unit<E>(self) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_bool<E>(self, _: bool) -> Result<T, E> {
        Ok(T::from_scalar())
    }

    fn visit_i64<E>(self, _: i64) -> Result<T, E> {
        Ok(T::from_scalar())
    }

    fn visit_u64<E>(self, _: u64) -> Result<T, E> {
        Ok(T::from_scalar())
    }

    fn visit_f64<E>(self, _: f64) -> Result<T, E> {
        Ok(T::from_scalar())
    }

    fn visit_str<E>(self, _: &str) -> Result<T, E> {
        Ok(T::from_scalar())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<T, A::Error> {
        T::from_list(list)
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<T, A::Error> {
        T::from_object(object)
    }
}

/// An object's fields, which can be skipped from wherever a reader of them stopped.
struct Fields<A> {
    object: A,
    /// Whether a name was read and its value was not.
    is_before_value: bool,
}

impl<'de, A: MapAccess<'de>> Fields<A> {
    fn skip(&mut self) -> Result<(), A::Error> {
        if self.is_before_value {
            self.next_value::<IgnoredAny>()?;
        }
        while self.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(())
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Fields<A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        let name = self.object.next_key_seed(seed)?;
        self.is_before_value = name.is_some();
        Ok(name)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.is_before_value = false;
        self.object.next_value_seed(seed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, Deserialize)]
    #[serde(default)]
    struct Outer<'a> {
        #[serde(borrow)]
        level: Level<Inner<'a>>,
        part: Cuttable<Inner<'a>>,
        list: OneOrMany<Texts>,
        next: Raw<'a>,
    }

    #[derive(Debug, Default, Deserialize)]
    #[serde(default)]
    struct Inner<'a> {
        #[serde(borrow, alias = "B")]
        b: Raw<'a>,
    }

    #[derive(Debug, Default, PartialEq)]
    struct Texts(Vec<Option<String>>);

    impl Collect for Texts {
        type Item<'a> = Inner<'a>;

        fn add(&mut self, item: Option<Inner>) {
            self.0.push(item.and_then(|it| it.b.text()));
        }
    }

    /// Reads a field of this name, with another behind it.
    fn outer<'a>(json: &'a str) -> Outer<'a> {
        let outer: Outer<'a> = strict(json).unwrap();
        assert!(outer.next.is("behind"), "{json}");
        outer
    }

    fn with(name: &str, value: &str) -> String {
        format!(r#"{{"{name}": {value}, "next": "behind"}}"#)
    }

    /// Everything that is no object, and objects that have a field twice.
    const OTHER_SHAPES: [&str; 11] = [
        "null",
        "true",
        "7",
        "-7",
        "0.5",
        r#""b""#,
        "[]",
        r#"[{"b": "c"}, ["b"]]"#,
        r#"{"b": "c", "b": "c"}"#,
        r#"{"b": "c", "B": {"b": ["c"]}, "c": {"d": [7]}, "e": 7}"#,
        r#"{"a": 7, "B": null, "b": "c"}"#,
    ];

    #[test]
    fn a_level_is_an_object_and_anything_else_is_absent() {
        let json = with("level", r#"{"a": [{}], "B": "c", "d": {"b": 7}}"#);
        assert!(outer(&json).level.0.unwrap().b.is("c"));
        assert!(outer(&with("level", "{}")).level.0.is_some());
        for other in OTHER_SHAPES {
            assert!(outer(&with("level", other)).level.0.is_none(), "{other}");
        }
    }

    #[test]
    fn a_name_that_is_no_text_is_refused_with_its_place() {
        let json = with("level", r#"{"\ud800": 7}"#);
        let error = strict::<Outer>(&json).unwrap_err().to_string();
        assert!(error.contains("at `level`") && error.contains("hex escape"), "{error}");
        let error = object::<Outer>(&json, "detail").unwrap_err().to_string();
        assert!(error.contains("at `detail`") && error.contains("hex escape at line 1"), "{error}");
    }

    #[test]
    fn a_part_is_whole_if_it_is_an_object_and_nothing_of_it_was_omitted() {
        for (part, is_there, is_whole) in [
            ("null", false, true),
            ("{}", true, true),
            (r#"{"b": "c"}"#, true, true),
            (r#"{"b": "c", "omitted": true}"#, true, false),
            (r#"{"b": {"omitted": true}}"#, true, false),
            ("[]", false, false),
            (r#"{"b": 7, "b": 7}"#, false, false),
            (r#"{"\ud800": 7}"#, false, false),
        ] {
            let json = with("part", part);
            let part = outer(&json).part;
            assert_eq!((part.object.is_some(), part.is_whole), (is_there, is_whole), "{json}");
        }
        let json = with("level", "7");
        assert!(outer(&json).part.is_whole);
    }

    #[test]
    fn a_list_hands_on_what_stands_in_it_or_in_its_place() {
        let texts = |texts: &[Option<&str>]| Texts(texts.iter().map(|it| it.map(str::to_owned)).collect());
        for (list, collected) in [
            (r#"[{"b": "c"}, {}, {"b": "d"}]"#, texts(&[Some("c"), None, Some("d")])),
            (r#"{"b": "c"}"#, texts(&[Some("c")])),
            ("[]", texts(&[])),
            ("null", texts(&[])),
            ("7", texts(&[None])),
            (r#"{"b": "c", "b": "c"}"#, texts(&[None])),
        ] {
            assert_eq!(outer(&with("list", list)).list.0, collected, "{list}");
        }
        let list = outer(&with("list", &format!("[{}]", OTHER_SHAPES.join(",")))).list.0;
        assert_eq!(list, Texts(vec![None; OTHER_SHAPES.len()]));
    }

    #[test]
    fn a_value_is_a_text_or_true_only_if_it_says_so() {
        for (json, text, is_true) in [
            (r#""a \"b\" \u00e9""#, Some("a \"b\" é"), false),
            (r#""True""#, Some("True"), true),
            ("true", None, true),
            ("false", None, false),
            ("1", None, false),
            ("null", None, false),
            (r#"["true"]"#, None, false),
            (r#""\ud800""#, None, false),
            ("1e999", None, false),
        ] {
            let value: Raw = serde_json::from_str(json).unwrap();
            assert_eq!((value.text().as_deref(), value.is_true()), (text, is_true), "{json}");
        }
    }

    #[test]
    fn a_text_is_cut_by_characters_and_not_within_one() {
        let longest = "é".repeat(TEXT_CHARS);
        assert_eq!(clip(&longest), longest);
        assert_eq!(clip(&format!("{longest}a")), longest);
        assert_eq!(clip(&"a".repeat(TEXT_CHARS + 1)).len(), TEXT_CHARS);
    }
}
