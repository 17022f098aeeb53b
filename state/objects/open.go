package objects

import (
	"context"
	"fmt"
	"net/url"
	"regexp"
)

// Open opens the store that a URL names:
//
//   - file:///absolute/directory: a directory, made if it is missing. Objects
//     are durable when a write returns.
//   - s3://bucket?region=…: Amazon S3 or a server that speaks its protocol;
//     the parameters are those of gocloud.dev's s3blob, for example
//     s3://bucket?endpoint=http://127.0.0.1:7070&use_path_style=true&region=us-east-1.
//     Credentials come from the environment or the shared files of the AWS SDK.
//   - azblob://container: Azure Blob Storage, parameters and variables as
//     gocloud.dev's azureblob documents them.
//   - gs://bucket: Google Cloud Storage through its S3-compatible XML endpoint,
//     with an HMAC key pair in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. The
//     endpoint does not promise to honour If-None-Match on writes, therefore a
//     write there looks for the name first; names are never reused, so that
//     nothing rests on the instant between. This scheme has not been run
//     against the real service.
//
// A path in the URL of a bucket is the prefix of all names. Opening does not
// contact the service. Errors hold neither user information nor parameters of
// the URL.
//
// What is stored in files nobody but this user may read.
func Open(ctx context.Context, rawURL string) (Store, error) {
	return open(ctx, rawURL, openPrivate)
}

// OpenForOthers is Open for a store whose objects others are to have: their files, and
// the directories, may be read by everybody.
func OpenForOthers(ctx context.Context, rawURL string) (Store, error) {
	return open(ctx, rawURL, func(u *url.URL) (*fileStore, error) { return openFile(u, shared) })
}

// OpenToRead is Open for who only looks, maybe as another user, or where nothing can be
// written: of a directory nothing is made or swept, and nothing can be put into it.
func OpenToRead(ctx context.Context, rawURL string) (Store, error) {
	return open(ctx, rawURL, openFileToRead)
}

func openPrivate(u *url.URL) (*fileStore, error) { return openFile(u, private) }

func open(ctx context.Context, rawURL string, file func(*url.URL) (*fileStore, error)) (Store, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		// The parser's message repeats the URL with everything in it.
		return nil, fmt.Errorf("opening the object store: the URL cannot be parsed")
	}
	var s Store
	switch u.Scheme {
	case "file":
		s, err = file(u)
	case "s3", "gs", "azblob":
		s, err = openBucket(ctx, u)
	default:
		err = fmt.Errorf("scheme %q is none of file, s3, gs, azblob", u.Scheme)
	}
	if err != nil {
		return nil, &storeError{op: "opening", store: Shown(u), cause: err}
	}
	return s, nil
}

// Check finds what Open would refuse a URL for, and makes no directory.
func Check(ctx context.Context, rawURL string) error {
	if u, err := url.Parse(rawURL); err == nil && u.Scheme == "file" {
		if _, err := fileRoot(u); err != nil {
			return &storeError{op: "opening", store: Shown(u), cause: err}
		}
		return nil
	}
	s, err := Open(ctx, rawURL)
	if err != nil {
		return err
	}
	return s.Close()
}

// Shown is the URL of a store without what may be secret in it.
func Shown(u *url.URL) string { return u.Scheme + "://" + u.Host + u.Path }

// storeError is a failure with the place it happened at. Its text is cleaned
// of what URLs may carry after "?" (signatures, tokens) or before "@".
type storeError struct {
	op, store, name string
	cause           error
}

func (e *storeError) Error() string {
	where := e.store
	if e.name != "" {
		where += " object " + e.name
	}
	return fmt.Sprintf("%s %s: %s", e.op, where, scrub(e.cause.Error()))
}

func (e *storeError) Unwrap() error { return e.cause }

var (
	urlQuery = regexp.MustCompile(`([a-z0-9]+://[^\s"'?]*)\?[^\s"']*`)
	urlUser  = regexp.MustCompile(`([a-z0-9]+://)[^\s"'/@]*@`)
)

func scrub(text string) string {
	return urlUser.ReplaceAllString(urlQuery.ReplaceAllString(text, "$1"), "$1")
}
