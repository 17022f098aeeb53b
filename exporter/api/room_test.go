package api

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"lockstitch/exporter/auth"
	"lockstitch/state/report"
)

// plan is that of the API, with the partitions of the rig.
func (r *rig) plan() report.Plan {
	r.t.Helper()
	at, err := r.deps.Ends(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	return report.Plan{Lifetime: 7 * 24 * time.Hour, Positions: at}
}

// allFor is what all accounts may take where those that have much may take so many bytes.
func allFor(bytes int64) int64 { return bytes * 8 / 7 }

// Files of rolling exports are held in memory as reports are: what an account's will have
// is bounded, from the beginning.
func TestRollingExportsNeedRoom(t *testing.T) {
	r := newRig(t, frozen(""))
	r.define(definitions...)
	const minutely, hourly = `{"every":"PT1M","start":"now","empty_files":true}`, `{"every":"PT1H","start":"now"}`
	made := 0
	var refused Problem
	for ; refused.Status == 0; made++ {
		if a := r.do("PUT", fmt.Sprintf("/emails/rolling-exports/x%d", made), "a", minutely); a.StatusCode != 201 {
			refused = r.problem(a, 429, "too-many-reports")
			made--
		}
	}
	if made < 2 || made > 5 {
		t.Fatalf("%d rolling exports with a file every minute", made)
	}
	for _, want := range []string{"every PT1M", "168h0m0s", "max_reports_size", "needs 16.6 MB", "of 67.1 MB", "longer `every`", "file_lifetime"} {
		if !strings.Contains(refused.Detail, want) {
			t.Errorf("%q does not say %q", refused.Detail, want)
		}
	}
	r.put("a", "hourly", hourly, 201)
	r.problem(r.do("PUT", "/emails/rolling-exports/hourly", "a", minutely), 429, "too-many-reports")
	if o, _ := r.table.OrderNamed("acme", "hourly"); o.Settings.Every != time.Hour {
		t.Errorf("a change that was refused: %s", o.Settings.Every)
	}
	r.put("b", "x", minutely, 201)
}

// One that is deleted makes room for another one at once, whatever it has made: who follows
// the advice to create it anew must not be without one meanwhile.
func TestDeletedOrdersMakeRoom(t *testing.T) {
	plan := report.Plan{Lifetime: 7 * 24 * time.Hour, Positions: []report.End{{Topic: "email-events"}, {Topic: "email-events"}}}
	r := newRig(t, func(c *Config, _ *Deps) { c.Limits.ReportsBytes = plan.Steps("acme", 5*time.Minute) + 15_000 })
	r.define(definitions...)
	const path, every = "/emails/rolling-exports/x", `{"every":"PT5M","start":"now"}`
	for range 3 {
		r.put("a", "x", every, 201)
		for range 12 {
			r.step("acme", "x", []byte("a file"), nil)
		}
		if a := r.do("DELETE", path, "a", ""); a.StatusCode != 204 {
			t.Fatalf("DELETE: %d", a.StatusCode)
		}
	}
}

// One that has stopped can be mended whatever room there is, that of others too.
func TestAStoppedOrderNeedsNoRoom(t *testing.T) {
	plan := report.Plan{Lifetime: 7 * 24 * time.Hour, Positions: []report.End{{Topic: "email-events"}, {Topic: "email-events"}}}
	r := newRig(t, func(c *Config, _ *Deps) { c.Limits.AllReportsBytes = allFor(plan.Steps("acme", 5*time.Minute) + 5_000) })
	r.define(definitions...)
	const path, every = "/emails/rolling-exports/x", `{"every":"PT5M","start":"now"}`
	r.put("a", "x", every, 201)
	for range 10 {
		r.request("b", recently())
	}
	mended := strings.TrimSuffix(every, "}") + `,"additional_attribute_mappings":[{"version_id":"9"}]}`
	r.problem(r.do("PUT", path, "a", mended), 429, "too-many-reports")
	o, _ := r.table.OrderNamed("acme", "x")
	if err := r.table.WriteTrouble(t.Context(), "acme", o.Order.ID, o.Settings.Revision, report.Problem{Type: "x", Title: "x"}); err != nil {
		t.Fatal(err)
	}
	r.put("a", "x", mended, 200)
}

// An account that has no room left gets nothing new; all that it has goes on, and can be
// changed to what takes less, or deleted.
func TestAnAccountWithoutRoom(t *testing.T) {
	plan := report.Plan{Lifetime: 7 * 24 * time.Hour, Positions: []report.End{{Topic: "email-events"}, {Topic: "email-events"}}}
	r := newRig(t, func(c *Config, _ *Deps) { c.Limits.ReportsBytes = plan.Steps("acme", 5*time.Minute) + 15_000 })
	r.define(definitions...)
	const path, same = "/emails/rolling-exports/x", `{"every":"PT5M","start":"now","additional_attribute_mappings":[{"version_id":"9"}]}`
	r.put("a", "x", same, 201)
	reports := 0
	for r.do("POST", "/emails/reports", "a", recently()).StatusCode == 202 {
		r.delete("a", r.list("a")[0].ReportID)
		if reports++; reports > 20 {
			t.Fatalf("%d reports", reports)
		}
	}
	r.problem(r.do("POST", "/emails/reports", "a", recently()), 429, "too-many-reports")
	filtered := `,"segment_filter":{"segment_discriminators":{"w":"seg-w"},"filter":"` + strings.Repeat("w&", 4999) + `w"}}`
	for _, change := range []string{strings.Replace(same, "PT5M", "PT4M", 1), strings.TrimSuffix(same, "}") + filtered} {
		r.problem(r.do("PUT", path, "a", change), 429, "too-many-reports")
		if o, _ := r.table.OrderNamed("acme", "x"); o.Settings.Every != 5*time.Minute || strings.Contains(string(o.Settings.Body), "w&w") {
			t.Errorf("a change that was refused: %s", o.Settings.Body)
		}
	}
	r.problem(r.do("PUT", "/emails/rolling-exports/y", "a", `{"every":"P1D","start":"now"}`), 429, "too-many-reports")

	for i := range 3 {
		r.step("acme", "x", []byte("a file"), nil)
		if page := r.files("a", "x", ""); page.Files != int64(i+1) {
			t.Fatalf("%+v", page)
		}
	}
	r.put("a", "x", same, 200)
	for _, call := range []string{"POST " + path + "/pause", "POST " + path + "/resume"} {
		method, path, _ := strings.Cut(call, " ")
		if a := r.do(method, path, "a", ""); a.StatusCode != 204 {
			t.Errorf("%s: %d %s", call, a.StatusCode, a.body)
		}
	}
	r.put("a", "x", strings.Replace(same, "PT5M", "PT10M", 1), 200)
	r.request("a", recently())
	r.request("b", recently())
	if a := r.do("DELETE", path, "a", ""); a.StatusCode != 204 {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	r.put("a", "y", `{"every":"PT6M","start":"beginning"}`, 201)
}

// Two accounts that take all that they can get leave a third one room for its exports, as
// much as an account with little may have, and nobody is told what the others have.
func TestAFewAccountsLeaveRoomForOthers(t *testing.T) {
	const all = 96 << 20
	r := newRig(t, func(c *Config, d *Deps) {
		frozen("")(c, d)
		c.Clients = append(c.Clients, auth.Client{ID: "c", SecretHash: auth.HashSecret("secret-c"), Account: "third"})
		c.Limits.AllReportsBytes, c.Limits.RollingExports, c.Limits.ExportsPerMinute = all, 1000, 1000
	})
	greedy := func(client, every string) (p Problem) {
		t.Helper()
		for i := range 100 {
			a := r.do("PUT", fmt.Sprintf("/emails/rolling-exports/%s-%d", strings.ToLower(every), i), client, fmt.Sprintf(`{"every":%q,"start":"now"}`, every))
			if a.StatusCode != 201 {
				return r.problem(a, 429, "too-many-reports")
			}
		}
		t.Fatalf("%s may have any number of rolling exports", client)
		return p
	}
	var p Problem
	for _, client := range []string{"a", "b"} {
		for _, every := range []string{"PT1M", "PT5M", "PT1H", "P1D"} {
			p = greedy(client, every)
		}
		for a := r.do("POST", "/emails/reports", client, recently()); a.StatusCode == 202; a = r.do("POST", "/emails/reports", client, recently()) {
			r.delete(client, r.list(client)[0].ReportID)
		}
	}
	taken := r.table.Sizes("third", r.plan())
	if taken.Account != 0 || taken.All > all/8*7 || taken.All < all/8*7-10_000 {
		t.Errorf("two accounts take %d of %d bytes", taken.All, all)
	}
	if !strings.Contains(p.Detail, "accounts that take more than 1.0 MB") || strings.Contains(p.Detail, bytesText(all)) || strings.Contains(p.Detail, bytesText(all/8*7)) {
		t.Errorf("%q", p.Detail)
	}

	r.request("c", recently())
	p = greedy("c", "PT1H")
	if got := r.table.Sizes("third", r.plan()).Account; got > littleBytes || got < littleBytes/2 {
		t.Errorf("a third account takes %d bytes of %d", got, littleBytes)
	}
	if !strings.Contains(p.Detail, "memory_limit") {
		t.Errorf("%q", p.Detail)
	}
}

// The same for all accounts together, and for what is asked for at the same time of more
// than one replica.
func TestRoomIsTakenOnce(t *testing.T) {
	const n = 12
	for _, c := range []struct{ name, first string }{{"new", ""}, {"shorter", `{"every":"P1D","start":"now"}`}} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, func(c *Config, _ *Deps) {
				c.Limits.RollingExports, c.Limits.ExportsPerMinute = n, 1000
				c.Limits.AllReportsBytes = 40 << 20
			})
			replicas := []*rig{r, r.replica()}
			for i := range n {
				if c.first != "" {
					r.put("a", fmt.Sprint("x", i), c.first, 201)
				}
				replicas[i%2].token("a")
			}
			codes := make([]int, n)
			var wg sync.WaitGroup
			for i := range n {
				wg.Go(func() {
					codes[i] = replicas[i%2].do("PUT", fmt.Sprint("/emails/rolling-exports/x", i), "a", `{"every":"PT1M","start":"now"}`).StatusCode
				})
			}
			wg.Wait()
			if err := r.table.CatchUp(t.Context(), "acme"); err != nil {
				t.Fatal(err)
			}
			if got := r.table.Sizes("acme", r.plan()); got.Account > r.cfg.Limits.AllReportsBytes {
				t.Errorf("%v: %+v", codes, got)
			}
			for i, code := range codes {
				o, ok := r.table.OrderNamed("acme", fmt.Sprint("x", i))
				if minutely := ok && o.Settings.Every == time.Minute; minutely != (code < 300) || code > 300 && code != 429 || ok == (c.first == "" && code == 429) {
					t.Errorf("%d answers %d: there %v", i, code, ok)
				}
			}
			for i := range n { // and room that was given back is there
				r.do("DELETE", fmt.Sprint("/emails/rolling-exports/x", i), "a", "")
			}
			r.put("b", "y", `{"every":"PT1M","start":"beginning"}`, 201)
		})
	}
}

// overtaking are the reports of a replica that others overtake: behind its first change
// of an order comes then.
type overtaking struct {
	*report.Table
	once sync.Once
	then func(ctx context.Context, id string)
}

func (o *overtaking) ChangeOrder(ctx context.Context, account, id string, s report.Settings) error {
	if err := ctx.Err(); err != nil { // the client library may write nevertheless
		return err
	}
	err := o.Table.ChangeOrder(ctx, account, id, s)
	o.once.Do(func() { o.then(ctx, id) })
	return err
}

// Where others took the room while a change was written it is taken back: also for a
// caller that has gone, but not what somebody else has made of it since.
func TestAChangeThatFoundNoRoomIsTakenBack(t *testing.T) {
	for _, c := range []struct {
		name              string
		changedBy, isGone bool
		want              time.Duration
	}{
		{"taken back", false, false, time.Hour},
		{"changed by another since", true, false, 5 * time.Minute},
		{"the caller has gone", false, true, time.Hour},
	} {
		t.Run(c.name, func(t *testing.T) {
			others := &overtaking{}
			r := newRig(t, func(c *Config, d *Deps) {
				plan := report.Plan{Lifetime: 7 * 24 * time.Hour, Positions: []report.End{{Topic: "email-events"}, {Topic: "email-events"}}}
				c.Limits.AllReportsBytes = allFor(plan.Steps("acme", time.Minute) + 500_000)
				others.Table = d.Reports.(*report.Table)
				d.Reports = others
			})
			r.put("a", "x", `{"every":"PT1H","start":"now"}`, 201)
			ctx, leave := context.WithCancel(t.Context())
			defer leave()
			others.then = func(call context.Context, id string) {
				o := &report.Order{ID: ulid.Make().String(), Account: "other", Name: "y", CreatedAt: time.Now(), Settings: report.Settings{Revision: "1", Every: time.Minute, Body: []byte(`{}`)}}
				if _, err := others.CreateOrder(t.Context(), o, 10); err != nil {
					t.Error(err)
				}
				if c.changedBy {
					if err := others.Table.ChangeOrder(t.Context(), "acme", id, report.Settings{Revision: "theirs", Every: 5 * time.Minute, Body: []byte(`{"every":"PT5M"}`)}); err != nil {
						t.Error(err)
					}
				}
				if c.isGone {
					leave()
					<-call.Done()
				}
			}
			req, err := http.NewRequestWithContext(ctx, "PUT", r.url+"/emails/rolling-exports/x", strings.NewReader(`{"every":"PT1M"}`))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer "+r.token("a"))
			req.Header.Set("Content-Type", "application/json")
			if a, err := http.DefaultTransport.RoundTrip(req); err == nil {
				r.problem(r.read(a, err), 429, "too-many-reports")
			} else if !c.isGone {
				t.Fatal(err)
			}
			for {
				changed := r.table.Changed()
				if o, _ := r.table.OrderNamed("acme", "x"); o.Settings.Every == c.want {
					return
				}
				select {
				case <-changed:
				case <-time.After(30 * time.Second):
					o, _ := r.table.OrderNamed("acme", "x")
					t.Fatalf("a file every %v, want %v", o.Settings.Every, c.want)
				}
			}
		})
	}
}
