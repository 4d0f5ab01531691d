//! What operators do: claim, hold, end, release, look, export.

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use http::{HeaderValue, StatusCode, header};
use medbind_core::binding::{AccountId, BindingState, DeviceClass, Pins};
use medbind_core::claim::ClaimCode;
use medbind_core::feed::binding_line;
use medbind_core::identity::DeviceId;
use medbind_core::time::Timestamp;
use serde::Deserialize;
use sqlx::{QueryBuilder, Sqlite};

use crate::change::{Action, Cause, Changed};
use crate::claim::{Claim, Claimed};
use crate::device::{
    Device, DeviceList, DeviceRecord, DeviceShown, NewSecret, binding_columns, device_columns,
};
use crate::problem::Problem;
use crate::routes::{App, Asked, Caller, Named, Sent};
use crate::store::{Store, StoreError};

/// The devices of a page where the client names no `limit`, and the most it may name.
const DEFAULT_LIMIT: u32 = 100;
const MAX_LIMIT: u32 = 1_000;
/// The longest reason, in characters.
const MAX_REASON_CHARACTERS: usize = 500;
/// The records of one read of an export.
const EXPORT_PAGE: i64 = 2_000;

/// The body of `POST /v1/devices/{device}/suspend` and the like; it may be left out.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Why {
    reason: Option<String>,
}

fn read_why(body: &Bytes) -> Result<Option<String>, Problem> {
    let Why { reason } = if body.trim_ascii().is_empty() {
        Why::default()
    } else {
        serde_json::from_slice(body).map_err(|error| Problem::invalid(error.to_string()))?
    };
    check_reason(reason)
}

fn check_reason(reason: Option<String>) -> Result<Option<String>, Problem> {
    let Some(reason) = reason else {
        return Ok(None);
    };
    if reason.chars().count() > MAX_REASON_CHARACTERS || reason.chars().any(char::is_control) {
        return Err(Problem::invalid(
            "a reason is one line of at most 500 characters",
        ));
    }
    Ok(Some(reason))
}

async fn act(
    app: &App,
    caller: &Caller,
    device: DeviceId,
    action: Action,
    reason: Option<String>,
) -> Result<Changed, Problem> {
    let cause = Cause {
        actor: caller.to_string(),
        reason,
    };
    Ok(app.store.act(device, action, cause).await?)
}

/// `POST /v1/devices/{device}/suspend`.
pub(crate) async fn suspend(
    State(app): State<App>,
    caller: Caller,
    Named(device): Named,
    body: Bytes,
) -> Result<Json<DeviceRecord>, Problem> {
    let changed = act(&app, &caller, device, Action::Suspend, read_why(&body)?).await?;
    Ok(Json(changed.device.into_record()))
}

/// `POST /v1/devices/{device}/resume`.
pub(crate) async fn resume(
    State(app): State<App>,
    caller: Caller,
    Named(device): Named,
    body: Bytes,
) -> Result<Json<DeviceRecord>, Problem> {
    let changed = act(&app, &caller, device, Action::Resume, read_why(&body)?).await?;
    Ok(Json(changed.device.into_record()))
}

/// `POST /v1/devices/{device}/revoke`.
pub(crate) async fn revoke(
    State(app): State<App>,
    caller: Caller,
    Named(device): Named,
    body: Bytes,
) -> Result<Json<DeviceRecord>, Problem> {
    let changed = act(&app, &caller, device, Action::Revoke, read_why(&body)?).await?;
    Ok(Json(changed.device.into_record()))
}

/// `POST /v1/devices/{device}/release`.
pub(crate) async fn release(
    State(app): State<App>,
    caller: Caller,
    Named(device): Named,
    body: Bytes,
) -> Result<Json<NewSecret>, Problem> {
    let changed = act(&app, &caller, device, Action::Release, read_why(&body)?).await?;
    with_secret(changed)
}

/// `POST /v1/devices/{device}/secret`.
pub(crate) async fn new_secret(
    State(app): State<App>,
    caller: Caller,
    Named(device): Named,
    body: Bytes,
) -> Result<Json<NewSecret>, Problem> {
    let changed = act(&app, &caller, device, Action::NewSecret, read_why(&body)?).await?;
    with_secret(changed)
}

fn with_secret(changed: Changed) -> Result<Json<NewSecret>, Problem> {
    let secret = changed
        .secret
        .ok_or_else(|| Problem::internal("no secret was made"))?;
    Ok(Json(NewSecret {
        record: changed.device.into_record(),
        claim_secret: secret.reveal().to_string(),
    }))
}

/// The body of `PUT /v1/devices/{device}/expires_at`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExpiresAtBody {
    // So read, a field that is left out is an error, not a binding without an end.
    #[serde(deserialize_with = "Option::deserialize")]
    expires_at: Option<Timestamp>,
    reason: Option<String>,
}

/// `PUT /v1/devices/{device}/expires_at`.
pub(crate) async fn expires_at(
    State(app): State<App>,
    caller: Caller,
    Named(device): Named,
    Sent(ExpiresAtBody { expires_at, reason }): Sent<ExpiresAtBody>,
) -> Result<Json<DeviceRecord>, Problem> {
    let action = Action::Expire(expires_at);
    let changed = act(&app, &caller, device, action, check_reason(reason)?).await?;
    Ok(Json(changed.device.into_record()))
}

/// The body of `PUT /v1/devices/{device}/pins`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PinsBody {
    pins: Pins,
    reason: Option<String>,
}

/// `PUT /v1/devices/{device}/pins`.
pub(crate) async fn pins(
    State(app): State<App>,
    caller: Caller,
    Named(device): Named,
    Sent(PinsBody { pins, reason }): Sent<PinsBody>,
) -> Result<Json<DeviceRecord>, Problem> {
    let action = Action::Pin(pins);
    let changed = act(&app, &caller, device, action, check_reason(reason)?).await?;
    Ok(Json(changed.device.into_record()))
}

/// The body of `POST /v1/claims`. There is no `Debug`: it holds a secret.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ClaimBody {
    code: String,
    secret: String,
    account: AccountId,
}

/// `POST /v1/claims`.
pub(crate) async fn claim(
    State(app): State<App>,
    caller: Caller,
    Sent(body): Sent<ClaimBody>,
) -> Result<Json<DeviceRecord>, Problem> {
    let claim = Claim::new(&body.code, &body.secret, body.account);
    let cause = Cause {
        actor: caller.to_string(),
        reason: None,
    };
    match app.store.claim(claim, cause).await? {
        Claimed::Won(device) => {
            app.metrics.claims.add();
            Ok(Json(device.into_record()))
        }
        Claimed::Refused => {
            app.metrics.refused_claims.add();
            // One answer, whatever the reason.
            Err(Problem::new(StatusCode::FORBIDDEN, "claim_refused")
                .because("code and secret do not fit, or the secret was used"))
        }
        Claimed::Wait(seconds) => {
            app.metrics.refused_claims.add();
            let mut problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many_attempts")
                .because("too many refused claims of this code");
            problem.retry_after = Some(seconds);
            Err(problem)
        }
    }
}

/// `GET /v1/devices/{device}`.
pub(crate) async fn show(
    State(app): State<App>,
    Named(device): Named,
) -> Result<Json<DeviceShown>, Problem> {
    // One view, so that the change that is told is the device's.
    let mut tx = app.store.read_consistently().await?;
    let found = Device::find(&mut tx, &device).await?;
    let found = found.ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, "unknown_device"))?;
    Ok(Json(found.into_shown(&mut tx).await?))
}

/// The query of `GET /v1/devices`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListQuery {
    after: Option<String>,
    limit: Option<u32>,
    state: Option<String>,
    account: Option<AccountId>,
    class: Option<DeviceClass>,
    code: Option<ClaimCode>,
    pseudonym: Option<String>,
}

/// `GET /v1/devices`: in the order of the canonical text.
pub(crate) async fn list(
    State(app): State<App>,
    Asked(query): Asked<ListQuery>,
) -> Result<Json<DeviceList>, Problem> {
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT);
    if let Some(word) = &query.state
        && BindingState::from_word(word) == BindingState::Unrecognised
    {
        return Err(Problem::invalid(
            "state is one of unclaimed, active, suspended, revoked",
        ));
    }
    let mut sql = listing(query, limit);
    let mut connection = app.store.read().await?;
    let rows = sql
        .build()
        .fetch_all(&mut *connection)
        .await
        .map_err(StoreError::from)?;
    let mut devices = rows
        .iter()
        .map(|row| Device::from_row(row).map(Device::into_record))
        .collect::<Result<Vec<_>, _>>()?;
    let most = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = devices.len() > most;
    devices.truncate(most);
    let last = devices.last().map(|last| last.device.to_string());
    Ok(Json(DeviceList {
        devices,
        next: last.filter(|_| more),
    }))
}

/// What a list is read with. One device more than is shown: then there is a next page.
fn listing(query: ListQuery, limit: u32) -> QueryBuilder<Sqlite> {
    let mut sql =
        QueryBuilder::<Sqlite>::new(concat!("SELECT ", device_columns!(), " FROM devices"));
    sql.push(" WHERE device > ")
        .push_bind(query.after.unwrap_or_default());
    // Those that fit the fewest devices first: the first that is there names the index, and the `+`
    // keeps the others from doing so.
    let filters = [
        ("code", query.code.map(|code| code.canonical().to_owned())),
        ("pseudonym", query.pseudonym),
        ("account", query.account.map(|account| account.to_string())),
        ("state", query.state),
        ("class", query.class.map(|class| class.to_string())),
    ];
    let asked = filters
        .into_iter()
        .filter_map(|(column, value)| value.map(|value| (column, value)));
    for (place, (column, value)) in asked.enumerate() {
        sql.push(if place == 0 { " AND " } else { " AND +" })
            .push(column)
            .push(" = ")
            .push_bind(value);
    }
    sql.push(" ORDER BY device LIMIT ")
        .push_bind(i64::from(limit) + 1);
    sql
}

/// `GET /v1/export`: every device's record as the feed has it, in the order of the canonical
/// text, each exactly once. An export that fails ends without its end, so that the client sees it.
pub(crate) async fn export(State(app): State<App>) -> Result<Response, Problem> {
    let first = export_page(&app.store, "").await?;
    let pages = stream::unfold((app, Some(first)), |(app, page)| async move {
        let (lines, last) = page?;
        let next = match last {
            None => None,
            Some(last) => match export_page(&app.store, &last).await {
                Ok(page) => Some(page),
                Err(error) => {
                    Problem::from(error).log();
                    return Some((Err("export failed"), (app, None)));
                }
            },
        };
        Some((Ok::<_, &'static str>(lines), (app, next)))
    });
    let mut response = Body::from_stream(pages).into_response();
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/x-ndjson"),
    );
    Ok(response)
}

/// The lines of a page of an export, and its last device; `None`: nothing comes after.
async fn export_page(store: &Store, after: &str) -> Result<(Bytes, Option<String>), StoreError> {
    let mut connection = store.read().await?;
    let rows = sqlx::query(concat!(
        "SELECT ",
        binding_columns!(),
        " FROM devices WHERE device > ?1 ORDER BY device LIMIT ?2"
    ))
    .bind(after)
    .bind(EXPORT_PAGE)
    .fetch_all(&mut *connection)
    .await?;
    let mut lines = Vec::new();
    let mut last = None;
    for row in &rows {
        let binding = crate::device::read_binding(row)?;
        lines.extend_from_slice(&binding_line(&binding));
        last = Some(binding.device.to_string());
    }
    Ok((lines.into(), last))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::plans::Plans;

    #[tokio::test]
    async fn every_list_is_read_by_an_index_that_fits_it() {
        let mut plans = Plans::new().await;
        let code = ClaimCode::from_entropy([1; 12]);
        for filters in 0..32_u8 {
            let has = |filter: u8| filters & (1 << filter) != 0;
            let query = ListQuery {
                after: Some("acme:SN1".to_owned()),
                limit: None,
                state: has(0).then(|| "active".to_owned()),
                account: has(1).then(|| "acc-1".parse().unwrap()),
                class: has(2).then(|| "cgm".parse().unwrap()),
                code: has(3).then(|| code.clone()),
                pseudonym: has(4).then(|| "0123456789abcdef".to_owned()),
            };
            // The first of these that is asked for leads to the fewest devices.
            let by = [
                (3, "sqlite_autoindex_devices_2 (code=?)"),
                (4, "devices_by_pseudonym (pseudonym=?)"),
                (1, "devices_by_account (account=? AND device>?)"),
                (0, "devices_by_state (state=? AND device>?)"),
                (2, "devices_by_class (class=? AND device>?)"),
            ];
            let by = by.iter().find(|(filter, _)| has(*filter));
            let (_, by) = by.unwrap_or(&(0, "sqlite_autoindex_devices_1 (device>?)"));
            let plan = plans.of(listing(query, 100)).await;
            assert!(plan[0].contains(by), "{filters:05b}: {plan:?}");
            assert!(plan.len() == 1 || has(4), "{filters:05b}: {plan:?}");
        }
    }
}
