//! How answers and refusals are put.

use axum::Json;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;

use super::control::{Kind, Trouble};
use super::views::Failure;

/// A refusal as JSON.
pub fn refuse(status: StatusCode, error: &str, next: &str) -> Response {
    (status, Json(Failure { error: error.into(), next: next.into() })).into_response()
}

impl Kind {
    /// The status that tells it.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Missing => StatusCode::NOT_FOUND,
            Self::Conflict => StatusCode::CONFLICT,
            Self::Failed => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl IntoResponse for Trouble {
    fn into_response(self) -> Response {
        refuse(self.kind.status(), &self.error, &self.next)
    }
}

/// A body of JSON; what is none is refused with a reason.
pub struct Body<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        match Json::<T>::from_request(request, state).await {
            Ok(Json(value)) => Ok(Self(value)),
            Err(rejection) => {
                let next = "send JSON as /openapi.json describes it, with `Content-Type: application/json`";
                Err(refuse(rejection.status(), &rejection.body_text(), next))
            }
        }
    }
}
