//! Who may ask for what?

use core::time::Duration;
use std::sync::Arc;

use crate::config::reader::{Field, Object, Problems, list_words};
use crate::config::schema::RULE;
use crate::rule::{MAX_RULES, Pattern, Placeholder, Principal, Rule, RuleSet};
use crate::tag::{MAX_TAGS, RESERVED_TAGS, TagError, Tags, check_tag_name, check_tag_value};

const MAX_METHODS: usize = 32;

/// What rules are checked against.
pub(super) struct RuleContext<'a> {
    pub namespaces: &'a [&'a str],
    pub any_accounts: bool,
    pub max_stale: Duration,
}

pub(super) fn rules(
    top: &Object<'_>,
    context: &RuleContext<'_>,
    warnings: &mut Problems,
    problems: &mut Problems,
) -> RuleSet {
    let mend =
        "without a rule everything is refused: give at least one with `path` and `principals`";
    let items = top.needed_list("rules", MAX_RULES, mend, problems);
    let mut rules: Vec<Rule> = Vec::new();
    for item in items {
        let rule = rule(&item, context, problems);
        if let Some(rule) = rule {
            let by = rules.iter().position(|earlier| earlier.covers(&rule));
            if let Some(by) = by {
                warnings.add(
                    &item.path,
                    format!("no request ever comes to this rule: rules[{by}] covers all of it"),
                    "put the narrower rule first, or leave it out",
                );
            }
            rules.push(rule);
        }
    }
    RuleSet::new(rules)
}

fn rule(item: &Field<'_>, context: &RuleContext<'_>, problems: &mut Problems) -> Option<Rule> {
    let object = item.object(&RULE, problems)?;
    let path = object.need(
        "path",
        "say what the rule covers, such as /v1/devices/{device}/**",
        problems,
    );
    let pattern = path.as_ref().and_then(|field| {
        let text = field.text(problems)?;
        Pattern::parse(text)
            .map_err(|error| problems.add(&field.path, error.to_string(), error.mend()))
            .ok()
    });
    let methods = methods(&object, problems);
    let principals = principals(&object, context, problems);
    if let (Some(field), Some(pattern)) = (&path, &pattern) {
        check_placeholders(field, pattern, &principals, context, problems);
    }
    let tags = tags(&object, problems);
    let max_stale = object.get("max_stale").and_then(|field| {
        let range = Duration::from_secs(3)..=Duration::from_hours(30 * 24);
        let span = field.duration(&range, problems)?;
        if span < context.max_stale {
            problems.add(
                &field.path,
                "it is shorter than `bindings.max_stale`",
                "a rule may only set a longer one: leave it out, or shorten `bindings.max_stale`",
            );
        }
        Some(span)
    });
    Some(Rule {
        pattern: pattern?,
        methods,
        principals: principals.into_boxed_slice(),
        tags: Arc::new(tags),
        max_stale,
    })
}

fn methods(object: &Object<'_>, problems: &mut Problems) -> Option<Box<[Box<str>]>> {
    object.get("methods")?;
    let mend = "name methods such as `GET`, or leave the key out to cover all";
    let mut methods: Vec<Box<str>> = Vec::new();
    for item in object.needed_list("methods", MAX_METHODS, mend, problems) {
        let Some(text) = item.text(problems) else {
            continue;
        };
        let upper = (1..=32).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_uppercase() || matches!(b, b'-' | b'_'));
        if !upper {
            problems.add(
                &item.path,
                format!("{text:?} is no method"),
                format!(
                    "methods are written in upper case, such as {:?}",
                    if text.bytes().all(|b| b.is_ascii_alphabetic()) && !text.is_empty() {
                        text.to_ascii_uppercase()
                    } else {
                        "GET".into()
                    }
                ),
            );
        } else if text == "CONNECT" {
            problems.add(
                &item.path,
                "a CONNECT has no path that a rule could cover",
                "leave it out: Envoy shows an extended CONNECT (WebSocket over HTTP/2) as a GET",
            );
        } else if methods.iter().any(|one| &**one == text) {
            problems.add(&item.path, "the method stands there twice", "keep it once");
        }
        methods.push(text.into());
    }
    Some(methods.into_boxed_slice())
}

fn principals(
    object: &Object<'_>,
    context: &RuleContext<'_>,
    problems: &mut Problems,
) -> Vec<Principal> {
    let mend = "say who may: `[device]`, `[account]`, both, or `[anyone]`";
    let words = Principal::ALL.map(|principal| (principal.as_str(), principal));
    let items = object.needed_list("principals", words.len(), mend, problems);
    let mut principals: Vec<Principal> = Vec::new();
    for item in items {
        let Some(principal) = item.choice(&words, problems) else {
            continue;
        };
        if principals.contains(&principal) {
            problems.add(&item.path, "it stands there twice", "keep it once");
            continue;
        }
        if principal == Principal::Account && !context.any_accounts {
            problems.add(
                &item.path,
                "no token issuer is configured, so no account could ever pass",
                "add `accounts` with the `issuer` of the tokens that Envoy's jwt_authn verifies",
            );
        }
        principals.push(principal);
    }
    if principals.contains(&Principal::Anyone) && principals.len() > 1 {
        problems.add(
            &object.path.key("principals"),
            "`anyone` beside others would let in whom they refuse",
            "let `anyone` stand alone, or leave it out",
        );
    }
    principals
}

fn check_placeholders(
    field: &Field<'_>,
    pattern: &Pattern,
    principals: &[Principal],
    context: &RuleContext<'_>,
    problems: &mut Problems,
) {
    let names_device = pattern.has(Placeholder::Device) || pattern.has(Placeholder::Serial);
    if principals.contains(&Principal::Anyone) {
        for placeholder in Placeholder::ALL {
            if pattern.has(placeholder) {
                problems.add(
                    &field.path,
                    format!(
                        "{} ties the path to a principal, and `anyone` is none",
                        placeholder.as_str()
                    ),
                    "use * for that segment, or name other principals",
                );
            }
        }
    }
    if principals.contains(&Principal::Account) {
        if pattern.has(Placeholder::Serial) && context.namespaces.len() > 1 {
            problems.add(
                &field.path,
                "{serial} does not say which issuer's device an account means, and there is more than one issuer",
                "use {device}, which holds the namespace too, or take `account` out of this rule's principals",
            );
        }
        if pattern.has(Placeholder::Class) && !names_device {
            problems.add(
                &field.path,
                "an account has no class, and the path names no device that has one",
                "add {device} to the path, or use * for {class}",
            );
        }
    }
}

fn tags(object: &Object<'_>, problems: &mut Problems) -> Tags {
    let Some(field) = object.get("tags") else {
        return Tags::default();
    };
    let entries = field.entries(problems);
    if entries.len() > MAX_TAGS {
        problems.add(
            &field.path,
            format!("{} tags", entries.len()),
            format!("at most {MAX_TAGS} are allowed"),
        );
        return Tags::default();
    }
    let mut tags: Vec<(&str, &str)> = Vec::new();
    for (name, field) in entries {
        match check_tag_name(name) {
            Ok(()) => {}
            Err(error @ TagError::Reserved) => problems.add(
                &field.path,
                error.to_string(),
                format!("choose a name other than {}", list_words(RESERVED_TAGS)),
            ),
            Err(error @ (TagError::Name | TagError::Value)) => problems.add(
                &field.path,
                format!("{name:?} is no name of a tag"),
                error.to_string(),
            ),
        }
        let Some(value) = field.text(problems) else {
            continue;
        };
        if let Err(error) = check_tag_value(value) {
            problems.add(
                &field.path,
                format!("{value:?} cannot be sent as a header value"),
                error.to_string(),
            );
        }
        tags.push((name, value));
    }
    Tags::new(tags)
}
