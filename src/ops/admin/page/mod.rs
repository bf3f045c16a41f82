//! The pages for people: HTML from the server, no scripts, nothing from elsewhere.
//!
//! Anyone who shows a token gets a cookie; every form repeats a word that only our own pages know.

mod chart;
mod look;
mod views;

use std::time::Instant;

use axum::extract::{Form, Path, Request, State};
use axum::http::StatusCode;
use axum::http::header::{self, HeaderMap, HeaderValue};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use serde::Deserialize;

pub use look::{bytes, encoded, length, rate};

use super::api::shown;
use super::control::{Changed, Control, Kind, NewUser, Settings, Trouble};
use super::desk::Shared;
use super::guard::Peer;
use super::login::Login;
use super::token::Role;

/// The routes of the pages.
pub fn router(desk: Shared) -> Router<Shared> {
    let inside = Router::new()
        .route("/", get(overview))
        .route("/users", get(users).post(create))
        .route("/users/{name}", get(user))
        .route("/users/{name}/{action}", post(act))
        .route("/sessions", get(sessions))
        .route("/sessions/{id}/close", post(close))
        .route("/events", get(events))
        .route("/reload", post(reload))
        .route("/logout", post(log_out))
        .route_layer(from_fn_with_state(desk, logged_in));
    inside.route("/login", get(login).post(log_in)).route("/style.css", get(style))
}

/// A form without fields of its own.
#[derive(Deserialize)]
struct Plain {
    csrf: String,
}

#[derive(Deserialize)]
struct TokenForm {
    token: String,
}

#[derive(Deserialize)]
struct UserForm {
    csrf: String,
    name: String,
    #[serde(default)]
    expires: String,
    #[serde(default)]
    quota: String,
    #[serde(default)]
    note: String,
}

/// Login and cookie of a request.
#[derive(Clone)]
struct Guest {
    login: Login,
    cookie: String,
}

impl Guest {
    /// The form is one of ours, and the role suffices for the action. If not, that is noted.
    fn may(&self, desk: &Shared, csrf: &str, least: Role, action: &str) -> Result<(), Box<Response>> {
        let caller = &self.login.caller;
        let (noted, told) = if !self.login.is_ours(csrf) {
            ("the form is out of date", "This form is out of date. Go back and reload the page.")
        } else if caller.role < least {
            ("the role may not do this", "Your role may not do this.")
        } else {
            return Ok(());
        };
        desk.note(caller, action, "", Some(noted));
        Err(Box::new(wrong(StatusCode::FORBIDDEN, told)))
    }
}

/// The cookie's name. Browsers take the prefixed one only from a secure place, for this host alone.
fn cookie_name(secure: bool) -> &'static str {
    if secure { "__Host-vizard" } else { "vizard" }
}

fn cookie(headers: &HeaderMap, secure: bool) -> Option<String> {
    let all = headers.get_all(header::COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    let pairs = all.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.into_iter().find(|(name, _)| *name == cookie_name(secure)).map(|(_, value)| value.to_owned())
}

fn set_cookie(desk: &Shared, value: &str, seconds: u32) -> HeaderValue {
    let secure = if desk.secure { "; Secure" } else { "" };
    let name = cookie_name(desk.secure);
    let text = format!("{name}={value}; Path=/; HttpOnly; SameSite=Strict; Max-Age={seconds}{secure}");
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static(""))
}

/// Lets those through who are logged in; the others are shown the way.
async fn logged_in(State(desk): State<Shared>, mut request: Request, next: Next) -> Response {
    let found = cookie(request.headers(), desk.secure).and_then(|cookie| {
        let login = desk.logins.find(&cookie, &desk.tokens(), Instant::now())?;
        Some(Guest { login, cookie })
    });
    match found {
        Some(guest) if guest.login.caller.role >= Role::Viewer => {
            request.extensions_mut().insert(guest);
            next.run(request).await
        }
        Some(_) => wrong(StatusCode::FORBIDDEN, "This token is for metrics only."),
        None => Redirect::to("/login").into_response(),
    }
}

async fn login() -> Html<String> {
    Html(views::login(None).into_string())
}

async fn log_in(State(desk): State<Shared>, Extension(peer): Extension<Peer>, Form(form): Form<TokenForm>) -> Response {
    let caller = match desk.log_in(peer, form.token.trim()) {
        Ok(caller) if caller.role >= Role::Viewer => caller,
        Ok(_) => return refused_login("This token is for metrics only."),
        Err(refusal) if refusal.status() == StatusCode::TOO_MANY_REQUESTS => {
            return refused_login("Too many attempts. Wait a minute.");
        }
        Err(_) => return refused_login("This token is not known."),
    };
    desk.note(&caller, "log in", "", None);
    let cookie = desk.logins.begin(caller, &mut rand::rng(), Instant::now());
    let mut response = Redirect::to("/").into_response();
    response.headers_mut().insert(header::SET_COOKIE, set_cookie(&desk, &cookie, 24 * 60 * 60));
    response
}

fn refused_login(why: &str) -> Response {
    (StatusCode::UNAUTHORIZED, Html(views::login(Some(why)).into_string())).into_response()
}

async fn log_out(State(desk): State<Shared>, Extension(guest): Extension<Guest>, Form(form): Form<Plain>) -> Response {
    if let Err(refusal) = guest.may(&desk, &form.csrf, Role::Viewer, "log out") {
        return *refusal;
    }
    desk.note(&guest.login.caller, "log out", "", None);
    desk.logins.end(&guest.cookie);
    let mut response = Redirect::to("/login").into_response();
    response.headers_mut().insert(header::SET_COOKIE, set_cookie(&desk, "", 0));
    response
}

async fn style() -> Response {
    ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], look::STYLE).into_response()
}

async fn overview(State(desk): State<Shared>, Extension(guest): Extension<Guest>) -> Html<String> {
    Html(views::overview(&desk, &guest.login).into_string())
}

async fn users(State(desk): State<Shared>, Extension(guest): Extension<Guest>) -> Html<String> {
    Html(views::users(&desk, &guest.login).into_string())
}

async fn sessions(State(desk): State<Shared>, Extension(guest): Extension<Guest>) -> Html<String> {
    Html(views::sessions(&desk, &guest.login).into_string())
}

async fn events(State(desk): State<Shared>, Extension(guest): Extension<Guest>) -> Html<String> {
    Html(views::events(&desk, &guest.login).into_string())
}

/// A user's page. It shows the secret to those who may see it, which is noted.
async fn user(State(desk): State<Shared>, Extension(guest): Extension<Guest>, Path(name): Path<String>) -> Response {
    let seen = desk.control.look();
    let Some(state) = seen.users.iter().find(|user| user.name == name) else {
        return wrong(StatusCode::NOT_FOUND, "There is no such user.");
    };
    let links = match guest.login.caller.role >= Role::Operator {
        false => None,
        true => {
            let (wanted, on) = (name.clone(), shown(&name));
            let links = desk.act(&guest.login.caller, "see link", &on, move |control| control.links(&wanted)).await;
            Some(links)
        }
    };
    Html(views::user(&desk, &guest.login, &state.into(), links.as_ref()).into_string()).into_response()
}

async fn create(
    State(desk): State<Shared>,
    Extension(guest): Extension<Guest>,
    Form(form): Form<UserForm>,
) -> Response {
    if let Err(refusal) = guest.may(&desk, &form.csrf, Role::Operator, "create user") {
        return *refusal;
    }
    let written = |text: String| (!text.trim().is_empty()).then(|| text.trim().to_owned());
    let settings = Settings {
        expires: written(form.expires),
        quota: written(form.quota),
        note: written(form.note),
        ..Settings::default()
    };
    let user = NewUser { name: form.name.trim().to_owned(), secret: None, settings };
    let (name, to) = (shown(&user.name), format!("/users/{}", look::encoded(&user.name)));
    let outcome = desk.act(&guest.login.caller, "create user", &name, move |control| control.create(&user)).await;
    let to = if outcome.is_ok() { to.as_str() } else { "/users" };
    told(&desk, &guest, outcome, to)
}

async fn act(
    State(desk): State<Shared>,
    Extension(guest): Extension<Guest>,
    Path((name, action)): Path<(String, String)>,
    Form(form): Form<Plain>,
) -> Response {
    if let Err(refusal) = guest.may(&desk, &form.csrf, Role::Operator, "change user") {
        return *refusal;
    }
    type Work = fn(&dyn Control, &str) -> Result<Changed, Trouble>;
    let (what, work): (&'static str, Work) = match action.as_str() {
        "enable" => ("enable user", |control, name| switch(control, name, true)),
        "disable" => ("disable user", |control, name| switch(control, name, false)),
        "rotate" => ("rotate secret", |control, name| control.rotate(name, None)),
        "remove" => ("remove user", |control, name| control.remove(name)),
        "close" => ("close sessions", |control, name| {
            let closed = control.sessions().end(|live| live.member.name() == name);
            Ok(Changed { changed: vec![format!("{closed} sessions end")], ..Changed::default() })
        }),
        _ => return wrong(StatusCode::NOT_FOUND, "There is no such action."),
    };
    let (wanted, on) = (name.clone(), shown(&name));
    let outcome = desk.act(&guest.login.caller, what, &on, move |control| work(control, &wanted)).await;
    let gone = action == "remove" && outcome.is_ok();
    let to = if gone { "/users".to_owned() } else { format!("/users/{}", look::encoded(&name)) };
    told(&desk, &guest, outcome, &to)
}

fn switch(control: &dyn Control, name: &str, on: bool) -> Result<Changed, Trouble> {
    control.change(name, &Settings { enabled: Some(on), ..Settings::default() })
}

async fn close(
    State(desk): State<Shared>,
    Extension(guest): Extension<Guest>,
    Path(id): Path<u64>,
    Form(form): Form<Plain>,
) -> Response {
    if let Err(refusal) = guest.may(&desk, &form.csrf, Role::Operator, "close session") {
        return *refusal;
    }
    let work = move |control: &dyn Control| match control.sessions().end(|live| live.id == id) {
        0 => Err(Trouble::new(Kind::Missing, "this session has ended by itself", "")),
        _ => Ok(Changed { changed: vec![format!("session {id} ends")], ..Changed::default() }),
    };
    let outcome = desk.act(&guest.login.caller, "close session", &id.to_string(), work).await;
    told(&desk, &guest, outcome, "/sessions")
}

async fn reload(State(desk): State<Shared>, Extension(guest): Extension<Guest>, Form(form): Form<Plain>) -> Response {
    if let Err(refusal) = guest.may(&desk, &form.csrf, Role::Admin, "reload") {
        return *refusal;
    }
    let outcome = desk.act(&guest.login.caller, "reload", "", |control| control.reload()).await;
    told(&desk, &guest, outcome, "/")
}

/// Says what came of it on the page that follows.
fn told(desk: &Shared, guest: &Guest, outcome: Result<Changed, Trouble>, to: &str) -> Response {
    let notice = match outcome {
        Ok(Changed { changed, restart }) => {
            let later = restart.iter().map(|what| format!("after a restart: {what}"));
            let all: Vec<String> = changed.into_iter().chain(later).collect();
            if all.is_empty() { "Nothing has changed.".into() } else { all.join("; ") }
        }
        Err(trouble) if trouble.next.is_empty() => format!("Not done: {}.", trouble.error),
        Err(trouble) => format!("Not done: {}. Next: {}.", trouble.error, trouble.next),
    };
    desk.logins.tell(&guest.cookie, notice);
    Redirect::to(to).into_response()
}

fn wrong(status: StatusCode, text: &str) -> Response {
    (status, Html(views::wrong(text).into_string())).into_response()
}
