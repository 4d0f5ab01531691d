//! Which keys are there? The schema, one section for each kind of object.

use crate::source::SourceName;

/// One kind of object and its keys. The names are an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section {
    /// What it is called in `docs/configuration.md`.
    pub name: &'static str,
    /// Its keys, in the order of the documentation.
    pub keys: &'static [&'static str],
}

pub(super) const GUARD: Section = Section {
    name: "guard",
    keys: &[
        "role",
        "mode",
        "issuers",
        "key_policy",
        "rules",
        "accounts",
        "account_metadata",
        "bindings",
        "registry",
        "ready_path",
        "certificate_source",
        "forward_client_cert",
        "forward_authorization",
        "local_table",
        "log_identifiers",
        "retry_after",
    ],
};
pub(super) const SYNC: Section = Section {
    name: "sync",
    keys: &["role", "registry", "bindings"],
};
pub(super) const ISSUER: Section = Section {
    name: "issuers[]",
    keys: &[
        "namespace",
        "certificates",
        "identity",
        "require_client_auth",
    ],
};
pub(super) const KEY_POLICY: Section = Section {
    name: "key_policy",
    keys: &["types", "min_rsa_bits"],
};
pub(super) const RULE: Section = Section {
    name: "rules[]",
    keys: &["path", "methods", "principals", "tags", "max_stale"],
};
pub(super) const ACCOUNT: Section = Section {
    name: "accounts[]",
    keys: &["issuer", "prefix"],
};
pub(super) const BINDINGS: Section = Section {
    name: "bindings",
    keys: &[
        "preload",
        "capacity",
        "max_stale",
        "negative_ttl",
        "lookup_timeout",
        "max_clock_skew",
        "max_waiting",
        "max_waiting_per_device",
    ],
};
pub(super) const REGISTRY: Section = Section {
    name: "registry",
    keys: &["cluster", "authority"],
};
pub(super) const LOCAL_TABLE: Section = Section {
    name: "local_table",
    keys: &["known_devices", "refused"],
};
/// All keys that an identity source may have; which of them depends on `source`.
pub(super) const IDENTITY: Section = Section {
    name: "issuers[].identity[]",
    keys: &["source", "hw_type", "assigner", "template"],
};

/// The whole schema.
pub const SECTIONS: [Section; 10] = [
    GUARD,
    SYNC,
    ISSUER,
    IDENTITY,
    KEY_POLICY,
    RULE,
    ACCOUNT,
    BINDINGS,
    REGISTRY,
    LOCAL_TABLE,
];

/// An identity source: its word, the keys beside `source`, and which of them must be there.
pub(super) struct SourceKeys {
    pub source: &'static str,
    pub name: SourceName,
    pub required: &'static [&'static str],
    pub optional: &'static [&'static str],
}

/// The identity sources.
pub(super) const SOURCES: [SourceKeys; 6] = [
    SourceKeys {
        source: "subject.serial_number",
        name: SourceName::SubjectSerialNumber,
        required: &[],
        optional: &[],
    },
    SourceKeys {
        source: "san.hardware_module_name",
        name: SourceName::HardwareModuleName,
        required: &["hw_type"],
        optional: &[],
    },
    SourceKeys {
        source: "san.permanent_identifier",
        name: SourceName::PermanentIdentifier,
        required: &[],
        optional: &["assigner"],
    },
    SourceKeys {
        source: "san.uri",
        name: SourceName::Uri,
        required: &["template"],
        optional: &[],
    },
    SourceKeys {
        source: "san.dns",
        name: SourceName::Dns,
        required: &["template"],
        optional: &[],
    },
    SourceKeys {
        source: "subject.common_name",
        name: SourceName::SubjectCommonName,
        required: &[],
        optional: &[],
    },
];

/// The word of `known` that `word` was probably meant to be: at most two slips of the pen, and
/// at most half of its letters.
pub(super) fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    // Longer than any word of the schema: not worth the arithmetic.
    if word.len() > 64 {
        return None;
    }
    known
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(slips, candidate)| *slips <= 2 && slips.saturating_mul(2) <= candidate.len())
        .min_by_key(|(slips, _)| *slips)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance, letters' case and `-` for `_` not counted.
fn distance(left: &str, right: &str) -> usize {
    let fold = |c: char| {
        if c == '-' {
            '_'
        } else {
            c.to_ascii_lowercase()
        }
    };
    let right: Vec<char> = right.chars().map(fold).collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (line, ours) in left.chars().map(fold).enumerate() {
        let mut diagonal = line;
        let mut before = line.saturating_add(1);
        let mut next = Vec::with_capacity(row.len());
        next.push(before);
        for (theirs, above) in right.iter().zip(row.iter().skip(1)) {
            let changed = diagonal.saturating_add(usize::from(*theirs != ours));
            diagonal = *above;
            before = changed
                .min(above.saturating_add(1))
                .min(before.saturating_add(1));
            next.push(before);
        }
        row = next;
    }
    row.last().copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn a_slip_of_the_pen_finds_the_word_that_was_meant() {
        for (word, meant) in [
            ("principal", Some("principals")),
            ("Mode", Some("mode")),
            ("moed", Some("mode")),
            ("ready-path", Some("ready_path")),
            ("isuers", Some("issuers")),
            ("retry_aftr", Some("retry_after")),
            ("colour", None),
            ("", None),
        ] {
            let keys = GUARD.keys.iter().chain(RULE.keys).copied();
            assert_eq!(nearest(word, keys), meant, "{word}");
        }
        assert_eq!(nearest(&"m".repeat(100_000), ["mode"]), None);
    }
}
