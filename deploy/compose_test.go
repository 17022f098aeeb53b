// Package deploy holds what operators take away; its tests check the files as far
// as that goes without a container engine.
package deploy

import (
	"os"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
)

func TestComposeFileIsValidAndRunsTwoReplicas(t *testing.T) {
	opts, err := cli.NewProjectOptions([]string{"../docker-compose.yml"}, cli.WithName("lockstitch"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := opts.LoadProject(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"kafka", "topics", "s3", "prometheus", "lockstitch-1", "lockstitch-2"} {
		if _, err := p.GetService(name); err != nil {
			t.Error(err)
		}
	}
	one, two := p.Services["lockstitch-1"], p.Services["lockstitch-2"]
	for key, v := range one.Environment {
		if w := two.Environment[key]; w == nil || v == nil || *w != *v {
			t.Errorf("the replicas differ in %s", key)
		}
	}
	if one.StopGracePeriod == nil {
		t.Error("no stop_grace_period: the last cut would be killed")
	}
	for name, svc := range p.Services {
		if name != "topics" && svc.HealthCheck == nil {
			t.Errorf("%s has no health check", name)
		}
		// After a restart of the machine a replica alone would answer 503.
		if name != "topics" && svc.Restart != types.RestartPolicyUnlessStopped {
			t.Errorf("%s is restarted %q", name, svc.Restart)
		}
		// Its secrets are published.
		for _, port := range svc.Ports {
			if port.HostIP != "127.0.0.1" {
				t.Errorf("%s answers others than this machine, on %q port %s", name, port.HostIP, port.Published)
			}
		}
		for _, v := range svc.Volumes {
			if v.Type != types.VolumeTypeBind {
				continue
			}
			if _, err := os.Stat(v.Source); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	// No replica starts before its topics are there.
	if d := one.DependsOn["topics"]; d.Condition != types.ServiceConditionCompletedSuccessfully {
		t.Errorf("lockstitch-1 waits for topics: %q", d.Condition)
	}
	if d := p.Services["topics"].DependsOn["kafka"]; d.Condition != types.ServiceConditionHealthy {
		t.Errorf("topics waits for kafka: %q", d.Condition)
	}
	// What an environment holds, everybody sees who may look at the container.
	for key := range one.Environment {
		for _, word := range []string{"SECRET", "PASSWORD", "TOKEN", "ACCESS_KEY", "SIGNING_KEYS", "CLIENTS"} {
			if strings.Contains(key, word) && !strings.HasSuffix(key, "_FILE") {
				t.Errorf("%s is a secret in the environment", key)
			}
		}
	}
	for _, s := range one.Secrets {
		if _, err := os.Stat(p.Secrets[s.Source].File); err != nil {
			t.Errorf("secret %s: %v", s.Source, err)
		}
	}
	targets, err := os.ReadFile("prometheus.yml")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"lockstitch-1:9644", "lockstitch-2:9644"} {
		if !strings.Contains(string(targets), name) {
			t.Errorf("prometheus.yml does not scrape %s", name)
		}
	}
}

func TestImageHasNoRootAndNoShell(t *testing.T) {
	b, err := os.ReadFile("Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	_, last, ok := strings.Cut(string(b), "FROM scratch")
	if !ok || !strings.Contains(last, "USER 65532") || !strings.Contains(string(b), "CGO_ENABLED=0") {
		t.Error("the image must be built from scratch, with a static binary and a user that is not root")
	}
	// Of the whole image that user can write to the volume alone.
	for _, line := range []string{"VOLUME /data\n", "WORKDIR /data\n", "ENV TMPDIR=/data\n", "--chown=65532:65532 /data /data\n"} {
		if !strings.Contains(last, line) {
			t.Errorf("the image lacks %q: it would write where it may not", line)
		}
	}
}
