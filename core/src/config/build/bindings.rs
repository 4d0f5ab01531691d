//! How fresh must bindings be, how many are there, and who is asked for them?

use core::time::Duration;

use crate::cache::MAX_REGISTRY_NAME_OCTETS;
use crate::config::reader::{Field, Object, Problems};
use crate::config::schema::{BINDINGS, REGISTRY};
use crate::config::settings::{BindingsConfig, RegistryConfig};

const DAY: Duration = Duration::from_hours(24);

pub(super) fn bindings(top: &Object<'_>, problems: &mut Problems) -> BindingsConfig {
    let default = BindingsConfig::default();
    let Some(object) = top
        .get("bindings")
        .and_then(|field| field.object(&BINDINGS, problems))
    else {
        return default;
    };
    let second = Duration::from_secs(1);
    let milli = Duration::from_millis(1);
    let bindings = BindingsConfig {
        preload: object.boolean("preload", default.preload, problems),
        capacity: object.integer("capacity", default.capacity, &(1..=20_000_000), problems),
        max_stale: object.duration(
            "max_stale",
            default.max_stale,
            &(Duration::from_secs(3)..=Duration::from_hours(7 * 24)),
            problems,
        ),
        negative_ttl: object.duration(
            "negative_ttl",
            default.negative_ttl,
            &(second..=Duration::from_hours(1)),
            problems,
        ),
        lookup_timeout: object.duration(
            "lookup_timeout",
            default.lookup_timeout,
            &(milli..=Duration::from_secs(10)),
            problems,
        ),
        max_clock_skew: object.duration(
            "max_clock_skew",
            default.max_clock_skew,
            &(second..=DAY),
            problems,
        ),
        max_waiting: object.integer("max_waiting", default.max_waiting, &(1..=100_000), problems),
        max_waiting_per_device: object.integer(
            "max_waiting_per_device",
            default.max_waiting_per_device,
            &(1..=100_000),
            problems,
        ),
    };
    if object.get("max_waiting_per_device").is_some()
        && bindings.max_waiting_per_device > bindings.max_waiting
    {
        problems.add(
            &object.path.key("max_waiting_per_device"),
            "one device may hold more than all together",
            "make it at most `max_waiting`",
        );
    }
    bindings
}

pub(super) fn registry_config(
    field: &Field<'_>,
    problems: &mut Problems,
) -> Option<RegistryConfig> {
    let object = field.object(&REGISTRY, problems)?;
    let cluster = object
        .need(
            "cluster",
            "name the Envoy cluster that leads to the registry",
            problems,
        )
        .and_then(|field| {
            let expected = "a cluster's name as in Envoy";
            field.visible(MAX_REGISTRY_NAME_OCTETS, expected, problems)
        });
    let authority = object
        .need(
            "authority",
            "give the registry's host name, such as registry.example",
            problems,
        )
        .and_then(|field| {
            let text = field.text(problems)?;
            if text.contains(['/', '@', '?', '#']) {
                problems.add(
                    &field.path,
                    format!("{text:?} is more than a host and a port"),
                    "write host or host:port, without scheme and path",
                );
                return None;
            }
            field.visible(256, "a host, with :port where needed", problems)
        });
    Some(RegistryConfig {
        cluster: cluster?,
        authority: authority?,
    })
}
