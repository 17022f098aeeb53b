package objects

import (
	"context"
	"net/url"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	gcaws "gocloud.dev/aws"
	"gocloud.dev/blob"
	"gocloud.dev/blob/s3blob"
)

// openGoogle opens a bucket of Google Cloud Storage by its XML API, which
// speaks the S3 protocol. The client library of its own is left out: it would
// double the weight of the binary.
func openGoogle(ctx context.Context, u *url.URL) (*blob.Bucket, error) {
	q := u.Query()
	defaults := map[string]string{
		"endpoint": "https://storage.googleapis.com",
		"region":   "auto",
		// The endpoint knows neither the checksum headers nor the chunked
		// trailers that the S3 client sends unasked.
		"request_checksum_calculation": "when_required",
		"response_checksum_validation": "when_required",
	}
	for k, v := range defaults {
		if !q.Has(k) {
			q.Set(k, v)
		}
	}
	cfg, err := gcaws.V2ConfigFromURLParams(ctx, q)
	if err != nil {
		return nil, err
	}
	client := s3.NewFromConfig(cfg, func(o *s3.Options) {
		o.UsePathStyle = true
		o.APIOptions = append(o.APIOptions, unsignedAcceptEncoding)
	})
	return s3blob.OpenBucket(ctx, client, u.Host, &s3blob.Options{
		RequestChecksumCalculation: cfg.RequestChecksumCalculation,
	})
}

// unsignedAcceptEncoding keeps Accept-Encoding out of the signature: the
// service's front end changes that header, and the signature would not match.
func unsignedAcceptEncoding(stack *middleware.Stack) error {
	const header = "Accept-Encoding"
	type saved struct{}
	before := middleware.FinalizeMiddlewareFunc("HideAcceptEncoding",
		func(ctx context.Context, in middleware.FinalizeInput, next middleware.FinalizeHandler) (middleware.FinalizeOutput, middleware.Metadata, error) {
			if req, ok := in.Request.(*smithyhttp.Request); ok {
				ctx = middleware.WithStackValue(ctx, saved{}, req.Header.Get(header))
				req.Header.Del(header)
			}
			return next.HandleFinalize(ctx, in)
		})
	after := middleware.FinalizeMiddlewareFunc("ShowAcceptEncoding",
		func(ctx context.Context, in middleware.FinalizeInput, next middleware.FinalizeHandler) (middleware.FinalizeOutput, middleware.Metadata, error) {
			if req, ok := in.Request.(*smithyhttp.Request); ok {
				if v, ok := middleware.GetStackValue(ctx, saved{}).(string); ok && v != "" {
					req.Header.Set(header, v)
				}
			}
			return next.HandleFinalize(ctx, in)
		})
	if err := stack.Finalize.Insert(before, "Signing", middleware.Before); err != nil {
		return err
	}
	return stack.Finalize.Insert(after, "Signing", middleware.After)
}
