//! How does a value stand as text, in a log and on a wire? The same way in both: what its
//! `Display` writes and its `FromStr` reads.

/// `Debug` as the type's name and its text: `DeviceId(acme:SN1)`.
macro_rules! debug_as_text {
    ($name:ident) => {
        impl ::core::fmt::Debug for $name {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                ::core::write!(f, "{}({self})", ::core::stringify!($name))
            }
        }
    };
}

/// `Serialize` and `Deserialize` as a string.
macro_rules! serde_as_text {
    ($name:ident) => {
        impl ::serde::Serialize for $name {
            fn serialize<S: ::serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> ::serde::Deserialize<'de> for $name {
            fn deserialize<D: ::serde::Deserializer<'de>>(
                deserializer: D,
            ) -> Result<Self, D::Error> {
                let text = <::std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(::serde::de::Error::custom)
            }
        }
    };
}

/// `Display`, `FromStr` and `Debug` of a SHA-256 as 64 lower-case hex digits; all else is `$error`.
macro_rules! sha256_as_text {
    ($name:ident, $error:ty, $wrong:expr) => {
        impl ::core::str::FromStr for $name {
            type Err = $error;

            fn from_str(text: &str) -> Result<Self, $error> {
                $crate::hex::decode(text.as_bytes()).map(Self).ok_or($wrong)
            }
        }

        impl ::core::fmt::Display for $name {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                ::core::write!(f, "{:x}", ::base16ct::HexDisplay(&self.0))
            }
        }

        $crate::text::debug_as_text!($name);
    };
}

/// `as_str`, `Display`, `Debug`, `FromStr` and serde of a tuple struct over `Box<str>` whose text
/// `$fits` accepts; all else is `$error`.
macro_rules! checked_text {
    ($(#[$doc:meta])* $name:ident, $fits:expr, $error:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Box<str>);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl ::core::str::FromStr for $name {
            type Err = $error;

            fn from_str(text: &str) -> Result<Self, $error> {
                if $fits(text) { Ok(Self(text.into())) } else { Err($error) }
            }
        }

        impl ::core::fmt::Display for $name {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                f.write_str(&self.0)
            }
        }

        $crate::text::debug_as_text!($name);
        $crate::text::serde_as_text!($name);
    };
}

pub(crate) use {checked_text, debug_as_text, serde_as_text, sha256_as_text};
