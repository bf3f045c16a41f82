//! The routes under `/api/v1`, `/metrics` and `/openapi.json`, each in the group of the role that it takes.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json, Router};
use serde::Deserialize;
use utoipa::openapi::OpenApi as OpenApiDocument;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{IntoParams, OpenApi, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::{Body, refuse};
use super::control::{Changed, Kind, Links, NewUser, Settings, Trouble};
use super::desk::Shared;
use super::events::{self, Entry};
use super::guard::{Caller, at_least, unknown};
use super::token::Role;
use super::views::{Closed, Failure, Health, Readiness, Session, Status, Usage, User};
use crate::ops::metrics;

/// Longest wait for an event.
pub const LONGEST_WAIT: Duration = Duration::from_secs(25);

/// Longest list of new users in bytes: more than a hundred thousand.
const LONGEST_LIST: usize = 32 << 20;

/// The routes of the API and their description.
pub fn router(desk: &Shared) -> (Router<Shared>, OpenApiDocument) {
    let mut router = OpenApiRouter::with_openapi(Document::openapi()).merge(open());
    for role in Role::ALL {
        let guard = from_fn_with_state((desk.clone(), role), at_least);
        router = router.merge(group(role).route_layer(guard));
    }
    let (router, mut document) = router.split_for_parts();
    let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    document.components.get_or_insert_default().add_security_scheme("token", scheme);
    (router, document)
}

#[derive(OpenApi)]
#[openapi(info(
    title = "vizard",
    description = "The admin API of a running vizard. Every route but health and readiness takes a token with a role: \
                   metrics, viewer, operator or admin; each role may do what those before it may. Failures are JSON \
                   with `error` and `next`."
))]
struct Document;

/// Routes for anybody who can reach the listener: they say nothing that the listeners of the proxy do not.
fn open() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(health)).routes(routes!(readiness)).routes(routes!(document))
}

fn group(role: Role) -> OpenApiRouter<Shared> {
    match role {
        Role::Metrics => OpenApiRouter::new().routes(routes!(scrape)),
        Role::Viewer => OpenApiRouter::new()
            .routes(routes!(status))
            .routes(routes!(users))
            .routes(routes!(user))
            .routes(routes!(usage))
            .routes(routes!(sessions))
            .routes(routes!(recent)),
        Role::Operator => OpenApiRouter::new()
            .routes(routes!(create))
            .merge(OpenApiRouter::new().routes(routes!(create_all)).layer(DefaultBodyLimit::max(LONGEST_LIST)))
            .routes(routes!(change))
            .routes(routes!(remove))
            .routes(routes!(rotate))
            .routes(routes!(link))
            .routes(routes!(close))
            .routes(routes!(close_all)),
        Role::Admin => OpenApiRouter::new().routes(routes!(reload)).routes(routes!(drain)),
    }
}

/// Whether the proxy serves
///
/// The proxy visits its own listener as anybody would. 200 if it was answered, 503 if not.
#[utoipa::path(get, path = "/api/v1/health", responses(
    (status = 200, body = Health), (status = 503, body = Health)
))]
async fn health(State(desk): State<Shared>) -> Response {
    let health = desk.health().await;
    let status = if health.serving { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(health)).into_response()
}

/// Whether the proxy should be sent clients
#[utoipa::path(get, path = "/api/v1/readiness", responses(
    (status = 200, body = Readiness), (status = 503, body = Readiness)
))]
async fn readiness(State(desk): State<Shared>) -> Response {
    let seen = desk.control.look();
    let mut reasons = Vec::new();
    if seen.draining {
        reasons.push("the proxy is shutting down".to_owned());
    }
    if !seen.replay.well {
        reasons.push("the replay cache cannot be kept on disk".to_owned());
    }
    let health = desk.health().await;
    if !health.serving {
        reasons.push(health.detail);
    }
    let ready = reasons.is_empty();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Readiness { ready, reasons })).into_response()
}

/// This description
#[utoipa::path(get, path = "/openapi.json", responses((status = 200, description = "OpenAPI 3.1")))]
async fn document(Extension(document): Extension<Arc<OpenApiDocument>>) -> Response {
    Json(&*document).into_response()
}

/// Metrics for Prometheus
#[utoipa::path(get, path = "/metrics", security(("token" = ["metrics"])), responses(
    (status = 200, body = String, content_type = "application/openmetrics-text"),
    (status = 401, body = Failure)
))]
async fn scrape(State(desk): State<Shared>) -> Response {
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], desk.metrics.scrape()).into_response()
}

/// The state of the proxy
#[utoipa::path(get, path = "/api/v1/status", security(("token" = ["viewer"])), responses(
    (status = 200, body = Status), (status = 401, body = Failure), (status = 403, body = Failure)
))]
async fn status(State(desk): State<Shared>) -> Json<Status> {
    Json(Status::of(&*desk.control, desk.started))
}

/// All users
#[utoipa::path(get, path = "/api/v1/users", security(("token" = ["viewer"])), responses(
    (status = 200, body = Vec<User>), (status = 401, body = Failure), (status = 403, body = Failure)
))]
async fn users(State(desk): State<Shared>) -> Json<Vec<User>> {
    Json(desk.control.look().users.iter().map(User::from).collect())
}

/// One user
#[utoipa::path(get, path = "/api/v1/users/{name}", security(("token" = ["viewer"])), responses(
    (status = 200, body = User), (status = 401, body = Failure), (status = 403, body = Failure),
    (status = 404, body = Failure)
), params(("name" = String, Path, description = "Name of the user")))]
async fn user(State(desk): State<Shared>, Path(name): Path<String>) -> Result<Json<User>, Trouble> {
    one(&desk, &name).map(Json)
}

fn one(desk: &Shared, name: &str) -> Result<User, Trouble> {
    let seen = desk.control.look();
    let user = seen.users.iter().find(|user| user.name == name);
    user.map(User::from).ok_or_else(Trouble::no_user)
}

/// Traffic of a user
#[utoipa::path(get, path = "/api/v1/users/{name}/usage", security(("token" = ["viewer"])), responses(
    (status = 200, body = Usage), (status = 401, body = Failure), (status = 403, body = Failure),
    (status = 404, body = Failure)
), params(("name" = String, Path, description = "Name of the user")))]
async fn usage(State(desk): State<Shared>, Path(name): Path<String>) -> Result<Json<Usage>, Trouble> {
    let user = one(&desk, &name)?;
    Ok(Json(Usage { bytes: user.bytes, quota: user.quota }))
}

/// Adds a user with a new secret
#[utoipa::path(post, path = "/api/v1/users", security(("token" = ["operator"])), request_body = NewUser, responses(
    (status = 201, body = Changed), (status = 401, body = Failure), (status = 403, body = Failure),
    (status = 409, body = Failure), (status = 422, body = Failure)
))]
async fn create(
    State(desk): State<Shared>,
    Extension(caller): Extension<Caller>,
    Body(user): Body<NewUser>,
) -> Result<(StatusCode, Json<Changed>), Trouble> {
    let name = shown(&user.name);
    let changed = desk.act(&caller, "create user", &name, move |control| control.create(&user)).await?;
    Ok((StatusCode::CREATED, Json(changed)))
}

/// Adds several users in one step
///
/// All are added, or none: the first that cannot be is named with its place in the list, which begins with 1.
#[utoipa::path(post, path = "/api/v1/bulk/users", security(("token" = ["operator"])), request_body = Vec<NewUser>,
    responses(
    (status = 201, body = Changed), (status = 401, body = Failure), (status = 403, body = Failure),
    (status = 409, body = Failure), (status = 413, body = Failure), (status = 422, body = Failure)
))]
async fn create_all(
    State(desk): State<Shared>,
    Extension(caller): Extension<Caller>,
    Body(users): Body<Vec<NewUser>>,
) -> Result<(StatusCode, Json<Changed>), Trouble> {
    let shown = format!("{} users", users.len());
    let changed = desk.act(&caller, "create users", &shown, move |control| control.create_all(&users)).await?;
    Ok((StatusCode::CREATED, Json(changed)))
}

/// Changes a user's settings
#[utoipa::path(patch, path = "/api/v1/users/{name}", security(("token" = ["operator"])), request_body = Settings,
    responses(
    (status = 200, body = Changed), (status = 401, body = Failure), (status = 403, body = Failure),
    (status = 404, body = Failure), (status = 422, body = Failure)
), params(("name" = String, Path, description = "Name of the user")))]
async fn change(
    State(desk): State<Shared>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    Body(settings): Body<Settings>,
) -> Result<Json<Changed>, Trouble> {
    let shown = shown(&name);
    desk.act(&caller, "change user", &shown, move |control| control.change(&name, &settings)).await.map(Json)
}

/// Removes a user
#[utoipa::path(delete, path = "/api/v1/users/{name}", security(("token" = ["operator"])), responses(
    (status = 200, body = Changed), (status = 401, body = Failure), (status = 403, body = Failure),
    (status = 404, body = Failure)
), params(("name" = String, Path, description = "Name of the user")))]
async fn remove(
    State(desk): State<Shared>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Result<Json<Changed>, Trouble> {
    let shown = shown(&name);
    desk.act(&caller, "remove user", &shown, move |control| control.remove(&name)).await.map(Json)
}

/// Lifetime of the old secret after a rotation.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rotation {
    /// A length of time such as `24h`; none: the configured one.
    pub keep: Option<String>,
}

/// Gives a user another secret
#[utoipa::path(post, path = "/api/v1/users/{name}/rotate", security(("token" = ["operator"])), request_body = Rotation,
    responses(
    (status = 200, body = Changed), (status = 401, body = Failure), (status = 403, body = Failure),
    (status = 404, body = Failure), (status = 422, body = Failure)
), params(("name" = String, Path, description = "Name of the user")))]
async fn rotate(
    State(desk): State<Shared>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    Body(rotation): Body<Rotation>,
) -> Result<Json<Changed>, Trouble> {
    let shown = shown(&name);
    let work = move |control: &dyn super::control::Control| control.rotate(&name, rotation.keep.as_deref());
    desk.act(&caller, "rotate secret", &shown, work).await.map(Json)
}

/// The links of a user, which hold the secret
#[utoipa::path(get, path = "/api/v1/users/{name}/link", security(("token" = ["operator"])), responses(
    (status = 200, body = Links), (status = 401, body = Failure), (status = 403, body = Failure),
    (status = 404, body = Failure)
), params(("name" = String, Path, description = "Name of the user")))]
async fn link(
    State(desk): State<Shared>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Result<Json<Links>, Trouble> {
    let shown = shown(&name);
    desk.act(&caller, "see link", &shown, move |control| control.links(&name)).await.map(Json)
}

/// Which sessions.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Whose {
    /// Only those of this user.
    pub user: Option<String>,
}

/// The sessions that are going on
#[utoipa::path(get, path = "/api/v1/sessions", security(("token" = ["viewer"])), params(Whose), responses(
    (status = 200, body = Vec<Session>), (status = 401, body = Failure), (status = 403, body = Failure)
))]
async fn sessions(State(desk): State<Shared>, Query(whose): Query<Whose>) -> Json<Vec<Session>> {
    let wanted = |name: &str| whose.user.as_deref().is_none_or(|user| user == name);
    let list = desk.control.sessions().list();
    Json(list.iter().filter(|live| wanted(live.member.name())).map(|live| Session::from(&**live)).collect())
}

/// Ends a session
#[utoipa::path(delete, path = "/api/v1/sessions/{id}", security(("token" = ["operator"])), responses(
    (status = 200, body = Closed), (status = 401, body = Failure), (status = 403, body = Failure),
    (status = 404, body = Failure)
), params(("id" = u64, Path, description = "Number of the session")))]
async fn close(
    State(desk): State<Shared>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<u64>,
) -> Result<Json<Closed>, Trouble> {
    let work = move |control: &dyn super::control::Control| match control.sessions().end(|live| live.id == id) {
        0 => Err(Trouble::new(Kind::Missing, "there is no such session", "it may have ended: GET /api/v1/sessions")),
        closed => Ok(Closed { closed }),
    };
    desk.act(&caller, "close session", &id.to_string(), work).await.map(Json)
}

/// Ends all sessions of a user
#[utoipa::path(delete, path = "/api/v1/users/{name}/sessions", security(("token" = ["operator"])), responses(
    (status = 200, body = Closed), (status = 401, body = Failure), (status = 403, body = Failure)
), params(("name" = String, Path, description = "Name of the user")))]
async fn close_all(
    State(desk): State<Shared>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Result<Json<Closed>, Trouble> {
    let shown = shown(&name);
    let work = move |control: &dyn super::control::Control| {
        Ok(Closed { closed: control.sessions().end(|live| live.member.name() == name) })
    };
    desk.act(&caller, "close sessions", &shown, work).await.map(Json)
}

/// Which events.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Since {
    /// Only those behind this number.
    #[serde(default)]
    pub after: u64,
    /// Wait this many seconds for one, at most 25.
    #[serde(default)]
    pub wait: u64,
    /// At most so many, the latest.
    pub limit: Option<usize>,
}

/// The latest events
///
/// With `after` and `wait` it answers as soon as there is a later one, or with an empty list when the time is over.
#[utoipa::path(get, path = "/api/v1/events", security(("token" = ["viewer"])), params(Since), responses(
    (status = 200, body = Vec<Entry>), (status = 401, body = Failure), (status = 403, body = Failure)
))]
async fn recent(
    State(desk): State<Shared>,
    Extension(caller): Extension<Caller>,
    Query(since): Query<Since>,
) -> Response {
    let most = since.limit.unwrap_or(events::KEPT);
    let patience = Duration::from_secs(since.wait).min(LONGEST_WAIT);
    let place = desk.waiting.try_acquire().ok().filter(|_| !patience.is_zero());
    let events = match &place {
        None => desk.events.list(since.after, most),
        Some(_) => desk.events.wait(since.after, most, patience).await,
    };
    if !desk.still_knows(&caller) {
        return unknown("this token is not known any more", "make one with `vizard token ROLE`");
    }
    Json(events).into_response()
}

/// Reads the configuration again
#[utoipa::path(post, path = "/api/v1/reload", security(("token" = ["admin"])), responses(
    (status = 200, body = Changed), (status = 401, body = Failure), (status = 403, body = Failure),
    (status = 422, body = Failure)
))]
async fn reload(State(desk): State<Shared>, Extension(caller): Extension<Caller>) -> Result<Json<Changed>, Trouble> {
    desk.act(&caller, "reload", "", |control| control.reload()).await.map(Json)
}

/// Ends the proxy once its sessions have ended, or the time for that is over
#[utoipa::path(post, path = "/api/v1/drain", security(("token" = ["admin"])), responses(
    (status = 202, description = "It ends"), (status = 401, body = Failure), (status = 403, body = Failure)
))]
async fn drain(State(desk): State<Shared>, Extension(caller): Extension<Caller>) -> Result<StatusCode, Trouble> {
    let work = |control: &dyn super::control::Control| {
        control.drain();
        Ok(())
    };
    desk.act(&caller, "drain", "", work).await?;
    Ok(StatusCode::ACCEPTED)
}

/// Returns the form of a name for the log: it may hold a secret by mistake.
pub fn shown(name: &str) -> String {
    let fine = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '@');
    let is_name = !name.is_empty() && name.chars().count() <= 64 && name.chars().all(fine);
    match is_name && crate::auth::SecretText::parse(name).is_err() {
        true => name.to_owned(),
        false => "(no name)".to_owned(),
    }
}

/// An answer for a method that a path does not know.
pub async fn no_method() -> Response {
    refuse(StatusCode::METHOD_NOT_ALLOWED, "this cannot be done here", "see /openapi.json for the methods")
}
