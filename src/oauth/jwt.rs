//! Tokens that an issuer signed (JWT, RFC 7519), and the keys that verify them (JWK, RFC 7517).
//!
//! Hazard: a token names its own algorithm and key. With `none`, or with a public key as the secret of an HMAC, anybody can
//! sign. Rule: three algorithms with public keys are known, each key fits exactly one of them, and a token is verified by the
//! algorithm of the key only if it names the same.

use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde_json::{Map, Value};

/// Maximum size of a token, in bytes. Those of CI services are below 2 KiB.
pub(crate) const MAX_LENGTH: usize = 16 * 1024;

/// Keys of one issuer that are kept: more than any issuer has in use.
const MAX_KEYS: usize = 64;

/// The base point's field of P-256, and the length of an Ed25519 key, in bytes.
const COORDINATE: usize = 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    Rs256,
    Es256,
    EdDsa,
}

impl Algorithm {
    fn of(name: &str) -> Option<Self> {
        match name {
            "RS256" => Some(Self::Rs256),
            "ES256" => Some(Self::Es256),
            // RFC 9864 has a name of its own for this curve.
            "EdDSA" | "Ed25519" => Some(Self::EdDsa),
            _ => None,
        }
    }
}

enum Key {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// An uncompressed point.
    P256(Vec<u8>),
    Ed25519(Vec<u8>),
}

struct PublicKey {
    id: Option<String>,
    key: Key,
}

impl PublicKey {
    fn algorithm(&self) -> Algorithm {
        match self.key {
            Key::Rsa { .. } => Algorithm::Rs256,
            Key::P256(_) => Algorithm::Es256,
            Key::Ed25519(_) => Algorithm::EdDsa,
        }
    }

    fn verifies(&self, signed: &[u8], signature: &[u8]) -> bool {
        let verified = match &self.key {
            Key::Rsa { n, e } => RsaPublicKeyComponents { n, e }.verify(&RSA_PKCS1_2048_8192_SHA256, signed, signature),
            Key::P256(point) => UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(signed, signature),
            Key::Ed25519(point) => UnparsedPublicKey::new(&ED25519, point).verify(signed, signature),
        };
        verified.is_ok()
    }
}

/// A key as an issuer publishes it (RFC 7517 §4, RFC 7518 §6, RFC 8037 §2).
#[derive(Deserialize)]
struct Published {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl Published {
    /// `None`: of another kind, for another purpose, or not written as it should be.
    fn key(self) -> Option<PublicKey> {
        if self.usage.is_some_and(|usage| usage != "sig") {
            return None;
        }
        let bytes = |text: Option<String>| BASE64_URL_SAFE_NO_PAD.decode(text?).ok();
        let coordinate = |text| bytes(text).filter(|bytes| bytes.len() == COORDINATE);
        let without_zeros = |bytes: Vec<u8>| bytes.into_iter().skip_while(|byte| *byte == 0).collect::<Vec<_>>();
        let key = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => Key::Rsa { n: without_zeros(bytes(self.n)?), e: without_zeros(bytes(self.e)?) },
            ("EC", Some("P-256")) => Key::P256([vec![4], coordinate(self.x)?, coordinate(self.y)?].concat()),
            ("OKP", Some("Ed25519")) => Key::Ed25519(coordinate(self.x)?),
            _ => return None,
        };
        let key = PublicKey { id: self.kid, key };
        self.alg.is_none_or(|name| Algorithm::of(&name) == Some(key.algorithm())).then_some(key)
    }
}

/// The keys of an issuer.
pub(crate) struct KeySet(Vec<PublicKey>);

impl KeySet {
    /// Reads a JWK set. Keys that no token could be verified with are left out. `None`: it is none, or has no other keys.
    pub(crate) fn read(body: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<Value>,
        }
        let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
        let set: Set = serde_json::from_slice(body).ok()?;
        let published = set.keys.into_iter().filter_map(|key| serde_json::from_value::<Published>(key).ok());
        let keys: Vec<PublicKey> = published.filter_map(Published::key).take(MAX_KEYS).collect();
        (!keys.is_empty()).then_some(Self(keys))
    }
}

/// Why a token is none, or is not verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NotVerified {
    /// It has not the form of a signed JWT.
    Malformed,
    TooLong,
    /// Its algorithm is not one of the three.
    Algorithm(String),
    /// The issuer has no such key for that algorithm.
    UnknownKey,
    Signature,
}

/// A token as it was shown: nothing of it is believed yet.
pub(crate) struct Shown<'text> {
    algorithm: Algorithm,
    key_id: Option<String>,
    /// What it says of itself.
    claims: Map<String, Value>,
    signed: &'text [u8],
    signature: Vec<u8>,
}

/// Whether `text` has three parts in base64url, the first of which begins a JSON object: nothing else is tried as a token.
pub(crate) fn looks_like_one(text: &str) -> bool {
    text.starts_with("ey") && text.bytes().filter(|byte| *byte == b'.').count() == 2
}

impl<'text> Shown<'text> {
    pub(crate) fn read(text: &'text str) -> Result<Self, NotVerified> {
        if text.len() > MAX_LENGTH {
            return Err(NotVerified::TooLong);
        }
        let mut parts = text.split('.');
        let (Some(head), Some(body), Some(signature), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(NotVerified::Malformed);
        };
        let decoded = |part: &str| BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| NotVerified::Malformed);
        let object = |part: &str| -> Result<Map<String, Value>, NotVerified> {
            let unique: Unique = serde_json::from_slice(&decoded(part)?).map_err(|_| NotVerified::Malformed)?;
            Ok(unique.0)
        };
        let fields = object(head)?;
        let name = fields.get("alg").and_then(Value::as_str).ok_or(NotVerified::Malformed)?;
        let Some(algorithm) = Algorithm::of(name) else {
            return Err(NotVerified::Algorithm(name.chars().filter(char::is_ascii_graphic).take(16).collect()));
        };
        // What it names must be understood (RFC 7515 §4.1.11), and nothing is.
        if fields.contains_key("crit") {
            return Err(NotVerified::Malformed);
        }
        let key_id = match fields.get("kid") {
            None => None,
            Some(Value::String(id)) => Some(id.clone()),
            Some(_) => return Err(NotVerified::Malformed),
        };
        let signed = &text.as_bytes()[..head.len() + 1 + body.len()];
        Ok(Self { algorithm, key_id, claims: object(body)?, signed, signature: decoded(signature)? })
    }

    /// The issuer that it claims to be of.
    pub(crate) fn issuer(&self) -> Option<&str> {
        self.claims.get("iss").and_then(Value::as_str)
    }

    /// The keys that may have signed it: of its algorithm, and with the name that it gives, if any. Several keys may have
    /// one name (RFC 7517 §4.5), and some issuers name none (RFC 7515 appendix D).
    fn keys_in<'keys>(&self, keys: &'keys KeySet) -> impl Iterator<Item = &'keys PublicKey> {
        keys.0
            .iter()
            .filter(|key| key.algorithm() == self.algorithm && (self.key_id.is_none() || key.id == self.key_id))
    }

    /// Its claims, if one of `keys` signed it.
    pub(crate) fn verified_by(&self, keys: &KeySet) -> Result<&Map<String, Value>, NotVerified> {
        let mut why = NotVerified::UnknownKey;
        for key in self.keys_in(keys) {
            if key.verifies(self.signed, &self.signature) {
                return Ok(&self.claims);
            }
            why = NotVerified::Signature;
        }
        Err(why)
    }
}

/// An object in which no name occurs twice: who signs and who reads must not take one for another.
struct Unique(Map<String, Value>);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = Unique;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Unique, A::Error> {
                let mut fields = Map::new();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    if fields.insert(name, value).is_some() {
                        return Err(A::Error::custom("a name occurs twice"));
                    }
                }
                Ok(Unique(fields))
            }
        }
        deserializer.deserialize_map(Names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7515 appendix A.2 and A.3: the public keys, the token of each.
    const RSA: &str = r#"{"kty":"RSA","kid":"r","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ","e":"AQAB"}"#;
    const RS256: &str = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
    const EC: &str = r#"{"kty":"EC","kid":"e","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;
    const ES256: &str = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";

    fn set(keys: &[&str]) -> Option<KeySet> {
        KeySet::read(format!("{{\"keys\":[{}]}}", keys.join(",")).as_bytes())
    }

    fn verified(token: &str, keys: &[&str]) -> Result<Map<String, Value>, NotVerified> {
        Shown::read(token)?.verified_by(&set(keys).unwrap()).cloned()
    }

    fn part(text: &str) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(text)
    }

    #[test]
    fn the_examples_of_the_standards_are_verified() {
        for (token, key) in [(RS256, RSA), (ES256, EC)] {
            let claims = verified(token, &[key]).unwrap();
            assert_eq!(claims["iss"], "joe");
            // One letter of the claims.
            let other = token.replacen("eyJpc3MiOiJqb2Ui", "eyJpc3MiOiJqb2Ei", 1);
            assert_eq!(verified(&other, &[key]).err(), Some(NotVerified::Signature));
        }
    }

    #[test]
    fn a_key_verifies_by_its_own_algorithm_only() {
        assert_eq!(verified(ES256, &[RSA]).err(), Some(NotVerified::UnknownKey));
        assert_eq!(verified(RS256, &[EC]).err(), Some(NotVerified::UnknownKey));
        for (key, alg) in [(RSA, "HS256"), (RSA, "PS256"), (EC, "ES384")] {
            let named = key.replacen('{', &format!("{{\"alg\":\"{alg}\","), 1);
            assert!(set(&[&named]).is_none(), "{alg}");
        }
        assert!(set(&[&RSA.replacen('{', "{\"use\":\"enc\",", 1)]).is_none());
        assert!(set(&[r#"{"kty":"oct","kid":"r","k":"AAAA"}"#]).is_none());
        assert!(set(&[r#"{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}"#]).is_none());
    }

    #[test]
    fn a_set_is_read_after_a_byte_order_mark_and_beside_keys_of_no_use() {
        let keys = format!("\u{feff}{{\"keys\":[7,{{}},{RSA}],\"more\":null}}");
        assert!(Shown::read(RS256).unwrap().verified_by(&KeySet::read(keys.as_bytes()).unwrap()).is_ok());
    }

    /// Another key than that of the token, of the same type and name.
    fn another(key: &str) -> String {
        key.replace("ofgWCuLjyb", "ofgWCuLjyc")
            .replace("f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "axfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpY")
            .replace("x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0", "T-NC4v4af5uO5-tKfA-eFivOM1drMV7Oy7ZAaDe_UfU")
    }

    #[test]
    fn without_a_name_each_key_of_the_algorithm_is_tried() {
        for (token, key, of_another_type) in [(RS256, RSA, EC), (ES256, EC, RSA)] {
            assert!(verified(token, &[of_another_type, key]).is_ok());
            assert!(verified(token, &[&another(key), of_another_type, key]).is_ok());
            assert_eq!(verified(token, &[of_another_type, &another(key)]).err(), Some(NotVerified::Signature));
        }
    }

    #[test]
    fn of_several_keys_of_one_name_each_of_the_algorithm_is_tried() {
        let ring = ring::rand::SystemRandom::new();
        let algorithm = &ring::signature::ECDSA_P256_SHA256_FIXED_SIGNING;
        let pair = || {
            let document = ring::signature::EcdsaKeyPair::generate_pkcs8(algorithm, &ring).unwrap();
            ring::signature::EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &ring).unwrap()
        };
        let published = |pair: &ring::signature::EcdsaKeyPair, id: &str| {
            use ring::signature::KeyPair;
            let (x, y) = pair.public_key().as_ref()[1..].split_at(COORDINATE);
            let text = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
            format!(r#"{{"kty":"EC","kid":"{id}","crv":"P-256","x":"{}","y":"{}"}}"#, text(x), text(y))
        };
        let (own, other) = (pair(), pair());
        let signed = format!("{}.{}", part(r#"{"alg":"ES256","kid":"r"}"#), part(r#"{"iss":"joe"}"#));
        let signature = own.sign(&ring, signed.as_bytes()).unwrap();
        let token = format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature));
        let (own, other, of_another_name) = (published(&own, "r"), published(&other, "r"), published(&own, "e"));
        assert!(verified(&token, &[RSA, &own]).is_ok());
        assert!(verified(&token, &[RSA, &other, &own]).is_ok());
        assert_eq!(verified(&token, &[RSA, &other]).err(), Some(NotVerified::Signature));
        assert_eq!(verified(&token, &[RSA, &of_another_name]).err(), Some(NotVerified::UnknownKey));
    }

    #[test]
    fn other_algorithms_are_refused_before_a_key_is_looked_for() {
        for alg in ["none", "None", "HS256", "HS512", "PS256", "RS512", "ES384", ""] {
            let token = format!("{}.{}.AAAA", part(&format!("{{\"alg\":\"{alg}\"}}")), part("{\"iss\":\"joe\"}"));
            assert_eq!(Shown::read(&token).err(), Some(NotVerified::Algorithm(alg.to_owned())), "{alg}");
        }
    }

    #[test]
    fn only_three_parts_of_which_the_first_begins_an_object_are_tried_as_a_token() {
        for (text, looks) in
            [(RS256, true), ("ey..", true), ("a.b.c", false), ("eyJ.b", false), ("ey.a.b.c", false), ("", false)]
        {
            assert_eq!(looks_like_one(text), looks, "{text}");
        }
    }

    #[test]
    fn what_has_another_form_is_no_token() {
        let (head, body) = (part(r#"{"alg":"RS256"}"#), part("{}"));
        for token in [
            String::new(),
            "..".into(),
            format!("{head}.{body}"),
            format!("{head}.{body}.AA.AA"),
            format!("{head}=.{body}.AA"),
            format!("{head}.{body}.A+/A"),
            format!("{}.{body}.AA", part(r#"{"alg":"RS256","crit":["b64"],"b64":false}"#)),
            format!("{}.{body}.AA", part(r#"{"alg":"RS256","kid":7}"#)),
            format!("{}.{body}.AA", part(r#"{"alg":"none","alg":"RS256"}"#)),
            format!("{head}.{}.AA", part(r#"{"ref":"a","ref":"b"}"#)),
            format!("{head}.{}.AA", part("[]")),
        ] {
            assert_eq!(Shown::read(&token).err(), Some(NotVerified::Malformed), "{token}");
        }
        let longest = format!("{head}.{}.AA", "A".repeat(MAX_LENGTH - head.len() - 4));
        assert_eq!(Shown::read(&longest).err(), Some(NotVerified::Malformed));
        assert_eq!(Shown::read(&format!("{longest}A")).err(), Some(NotVerified::TooLong));
    }
}
