//! The header fields of a request, from the client's head to the bytes of the provider's.

use std::borrow::Cow;

use hyper::header::{HeaderMap, HeaderName, HeaderValue};

type Field<'head> = (Cow<'head, HeaderName>, Cow<'head, HeaderValue>);

/// The room for fields that are added.
const ADDED: usize = 8;

/// A list, for they are few, and are written out after one or two of them were looked up.
pub(in crate::gateway) struct Fields<'head>(Vec<Field<'head>>);

impl<'head> Fields<'head> {
    /// Those of `headers` whose names `keeps` keeps.
    pub(in crate::gateway) fn of(headers: &'head HeaderMap, keeps: impl Fn(&HeaderName) -> bool) -> Self {
        let mut fields = Vec::with_capacity(headers.len() + ADDED);
        let kept = headers.iter().filter(|(name, _)| keeps(name));
        fields.extend(kept.map(|(name, value)| (Cow::Borrowed(name), Cow::Borrowed(value))));
        Self(fields)
    }

    /// The first of this name.
    pub(in crate::gateway) fn get(&self, name: &HeaderName) -> Option<&HeaderValue> {
        self.0.iter().find(|(known, _)| **known == *name).map(|(_, value)| &**value)
    }

    /// One more, whether or not there are others of its name.
    pub(in crate::gateway) fn add(&mut self, name: HeaderName, value: Cow<'head, HeaderValue>) {
        self.0.push((Cow::Owned(name), value));
    }

    /// The only one of its name.
    pub(in crate::gateway) fn set(&mut self, name: HeaderName, value: Cow<'head, HeaderValue>) {
        self.0.retain(|(known, _)| **known != name);
        self.add(name, value);
    }

    pub(in crate::gateway) fn iter(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::{ACCEPT, COOKIE};

    use super::*;

    #[test]
    fn a_field_that_is_set_is_the_only_one_of_its_name() {
        let value = HeaderValue::from_static;
        let mut headers = HeaderMap::from_iter([(ACCEPT, value("a")), (COOKIE, value("b"))]);
        headers.append(ACCEPT, value("c"));
        let mut fields = Fields::of(&headers, |name| *name != COOKIE);
        let written = |fields: &Fields<'_>| {
            let text = |(name, value): (&HeaderName, &HeaderValue)| format!("{name}={}", value.to_str().unwrap());
            fields.iter().map(text).collect::<Vec<_>>()
        };
        assert_eq!(written(&fields), ["accept=a", "accept=c"]);
        assert_eq!((fields.get(&ACCEPT), fields.get(&COOKIE)), (Some(&value("a")), None));
        fields.add(ACCEPT, Cow::Owned(value("d")));
        assert_eq!(written(&fields), ["accept=a", "accept=c", "accept=d"]);
        fields.set(ACCEPT, Cow::Owned(value("e")));
        assert_eq!(written(&fields), ["accept=e"]);
    }
}
