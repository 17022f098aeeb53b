package main

import (
	"strings"

	"lockstitch/exporter/api"
	"lockstitch/exporter/auth"
)

// apiConfig is what the API works by: the settings, once they are complete, and
// shares of the memory limit.
func (s *Settings) apiConfig() api.Config {
	reports := int64(s.Replica.MemoryLimit) / 16 * 3 // of which no account may have all
	c := api.Config{
		PublicURL: s.HTTP.PublicURL,
		Limits: api.Limits{
			WindowMonths: s.Limits.WindowMonths, Attributes: s.Limits.MaxAttributes, Tags: s.Limits.MaxTags,
			Sections: s.Limits.MaxSections, Pending: s.Limits.MaxPending, ReportsBytes: min(int64(s.Limits.MaxReportsSize), reports/4*3),
			AllReportsBytes: reports,
			RollingExports:  s.Limits.MaxRolling, TokensPerMinute: s.Limits.TokensPerMinute,
			ExportsPerMinute: s.Limits.ExportsPerMinute, DownloadsPerMinute: s.Limits.DownloadsPerMinute,
			CallsPerMinute: s.Limits.CallsPerMinute,
		},
		FileLifetime:       s.Limits.FileLifetime,
		DownloadLifetime:   s.Limits.DownloadURLLifetime,
		BarrierTimeout:     s.Limits.BarrierTimeout,
		ActivityCacheBytes: int64(s.Replica.MemoryLimit) / 16,
		ActivitySumBytes:   int64(s.Replica.MemoryLimit) / 32,
	}
	for _, cl := range s.Auth.Clients {
		hash := "sha256:" + strings.ToLower(cl.SecretSHA256)
		if cl.Secret != "" {
			hash = auth.HashSecret(string(cl.Secret))
		}
		c.Clients = append(c.Clients, auth.Client{ID: cl.ID, SecretHash: hash, Account: cl.Account})
	}
	for _, k := range s.Auth.SigningKeys {
		c.SigningKeys = append(c.SigningKeys, auth.Key{ID: k.KID, Secret: []byte(k.Key)})
	}
	if s.Auth.IssuerJWKSURL != "" {
		c.Issuers = []auth.Issuer{{
			Name: s.Auth.Issuer, JWKSURL: s.Auth.IssuerJWKSURL, Audience: s.Auth.IssuerAudience,
			AccountClaim: s.Auth.IssuerAccount, Algorithms: s.Auth.IssuerAlgorithms,
		}}
	}
	return c
}
