//! Whose tokens name accounts?

use crate::binding::MAX_NAME_OCTETS;
use crate::config::reader::{Object, Problems};
use crate::config::schema::ACCOUNT;
use crate::decision::AccountIssuer;

const MAX_ACCOUNT_ISSUERS: usize = 64;

pub(super) fn accounts(top: &Object<'_>, problems: &mut Problems) -> Vec<AccountIssuer> {
    let Some(field) = top.get("accounts") else {
        return Vec::new();
    };
    let items = field.list(problems).unwrap_or_default();
    if items.len() > MAX_ACCOUNT_ISSUERS {
        problems.add(
            &field.path,
            format!("the list has {} items", items.len()),
            format!("at most {MAX_ACCOUNT_ISSUERS} are allowed"),
        );
        return Vec::new();
    }
    let mut accounts: Vec<AccountIssuer> = Vec::new();
    for item in items {
        let Some(object) = item.object(&ACCOUNT, problems) else {
            continue;
        };
        let mend = "give the token's `iss`, as Envoy's jwt_authn verifies it";
        let Some(issuer_field) = object.need("issuer", mend, problems) else {
            continue;
        };
        let Some(issuer) = issuer_field.text(problems) else {
            continue;
        };
        if issuer.is_empty() {
            problems.add(&issuer_field.path, "it is empty", mend);
        }
        if accounts.iter().any(|one| &*one.issuer == issuer) {
            problems.add(
                &issuer_field.path,
                "the issuer stands there twice",
                "keep it once",
            );
            continue;
        }
        let prefix = object
            .get("prefix")
            .and_then(|field| {
                if field.text(problems)?.is_empty() {
                    return None;
                }
                field.visible(MAX_NAME_OCTETS / 2, "a prefix", problems)
            })
            .unwrap_or_default();
        let clash = accounts
            .iter()
            .find(|one| one.prefix.starts_with(&*prefix) || prefix.starts_with(&*one.prefix));
        if let Some(other) = clash {
            problems.add(
                &object.path.key("prefix"),
                format!(
                    "accounts of this issuer and of {:?} could have the same name",
                    other.issuer
                ),
                "give each issuer a prefix of its own that is not the beginning of another's, such as `clinic:`",
            );
        }
        accounts.push(AccountIssuer {
            issuer: issuer.into(),
            prefix,
        });
    }
    accounts
}

pub(super) fn account_metadata(top: &Object<'_>, problems: &mut Problems) -> Box<str> {
    top.get("account_metadata")
        .and_then(|field| {
            let expected = "the `payload_in_metadata` of Envoy's jwt_authn";
            field.visible(64, expected, problems)
        })
        .unwrap_or_else(|| "medbind".into())
}
