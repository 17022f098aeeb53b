package api

import (
	"fmt"
	"net/http"
	"net/url"

	"github.com/danielgtaylor/huma/v2"

	"lockstitch/exporter/auth"
)

// TokenRequest is the body of POST /oauth/token, as JSON or form.
type TokenRequest struct {
	GrantType    string `json:"grant_type" enum:"client_credentials"`
	ClientID     string `json:"client_id" minLength:"1" maxLength:"1024"`
	ClientSecret string `json:"client_secret" minLength:"1" maxLength:"1024"`
}

// Token is the answer to it.
type Token struct {
	AccessToken string `json:"access_token"`
	ExpiresIn   int64  `json:"expires_in" example:"86400" doc:"Seconds."`
	TokenType   string `json:"token_type" enum:"Bearer"`
}

const maxCredential = 1024

// maxTokenBody bounds the body of a call that anybody can make. Two credentials of
// maxCredential characters take 25 kB, each byte of them escaped.
const maxTokenBody = 32_000

const (
	mediaJSON = "application/json"
	mediaForm = "application/x-www-form-urlencoded"
)

func (s *server) tokenOperation(schemas huma.Registry) operation {
	d := describe{schemas}
	return operation{public: true, handle: s.token, Operation: huma.Operation{
		OperationID: "get-token", Method: http.MethodPost, Path: "/oauth/token", Tags: []string{"Authorization"},
		Summary:     "Get an access token",
		Description: "Client credentials grant. The token is valid for 24 hours; keep it, as token calls are limited.",
		Security:    []map[string][]string{},
		RequestBody: d.body(map[string]any{mediaJSON: TokenRequest{}, mediaForm: TokenRequest{}},
			map[string]any{"grant_type": "client_credentials", "client_id": "my-client", "client_secret": "my-secret"}),
		Responses: d.responses(
			d.json(200, "A token.", Token{}),
			d.problems(400, 401, 413, 415, 429, 503),
		),
	}}
}

func (s *server) token(c *call) error {
	body, media, err := c.readBody(min(s.cfg.Limits.BodyBytes, maxTokenBody), mediaJSON, mediaForm)
	if err != nil {
		return err
	}
	var m members
	if media == mediaForm {
		m, err = parseForm(string(body))
	} else {
		m, err = parseObject(body)
	}
	if err != nil {
		return err
	}
	var e fieldErrors
	e.only(m, "", "grant_type", "client_id", "client_secret")
	if g := e.text(m, "", "grant_type", 0, maxCredential); len(e) == 0 && g != "client_credentials" {
		e.add("/grant_type", "must be client_credentials")
	}
	id := e.text(m, "", "client_id", 1, maxCredential)
	secret := e.text(m, "", "client_secret", 1, maxCredential)
	if err := e.err(); err != nil {
		return err
	}
	// Who does not know the secret must not use up what the client may ask for.
	who, err := s.authority.Authenticate(id, secret)
	calls := s.tokenCalls
	if err != nil {
		calls = s.wrongSecrets
	}
	if wait, ok := calls.Take(id, s.now()); !ok {
		return limited(kindRate, wait, fmt.Sprintf("A client may ask for %d tokens a minute. A token is valid for a day.", s.cfg.Limits.TokensPerMinute))
	}
	if err != nil {
		return unauthorized(challenge, "There is no such client, or the secret is wrong.")
	}
	token, err := s.authority.Issue(who)
	if err != nil {
		return err
	}
	return writeJSON(c.w, http.StatusOK, Token{AccessToken: token, ExpiresIn: int64(auth.TokenLifetime.Seconds()), TokenType: "Bearer"})
}

func parseForm(body string) (members, error) {
	form, err := url.ParseQuery(body)
	if err != nil {
		return nil, invalid(FieldError{Detail: "the form cannot be decoded"})
	}
	m := make(members, len(form))
	for name, vs := range form {
		if len(vs) != 1 {
			return nil, invalid(FieldError{"/" + escapePointer(name), "is given twice"})
		}
		m[name] = vs[0]
	}
	return m, nil
}
