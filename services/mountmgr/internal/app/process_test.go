package app

import (
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

func parse(t *testing.T, arguments ...string) Options {
	t.Helper()
	var options Options
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	options.AddFlags(flags)
	if err := flags.Parse(append([]string{"--node-name=node"}, arguments...)); err != nil {
		t.Fatal(err)
	}
	return options
}

func TestProcessFlagsAreChecked(t *testing.T) {
	for _, c := range []struct {
		argument string
		want     string
	}{
		{"--mount-mode=pod", ""},
		{"--mount-mode=process", ""},
		{"--process-cgroup=", ""},
		{"--mount-mode=sidecar", "--mount-mode"},
		{"--process-cgroup=a/b", "--process-cgroup"},
		{"--process-cgroup=..", "--process-cgroup"},
		{"--client-dir=clients", "--client-dir"},
		{"--process-dir=/run/../x", "--process-dir"},
	} {
		options := parse(t, c.argument)
		err := options.Validate()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want+":") {
			t.Errorf("%s: %v, want a fault of %q", c.argument, err, c.want)
		}
	}
}

// Without Kubernetes there is nothing to run mount pods with, and processes do
// not need it.
func TestProcessesNeedNoKubernetes(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	dir := "--process-dir=" + filepath.Join(t.TempDir(), "process")
	processes := parse(t, dir, "--mount-mode=process", "--process-cgroup=")
	client, err := kubernetesClient(processes, environment{qps: 1, burst: 1})
	if err != nil || client != nil {
		t.Fatalf("kubernetesClient = %v, %v, want none", client, err)
	}
	found, err := hosts(processes, mountPods(processes, client), log)
	if err != nil {
		t.Fatal(err)
	}
	if found.Mode != store.ModeProcess || found.ByMode[store.ModeProcess] == nil || found.ByMode[store.ModePod] != nil {
		t.Errorf("hosts %+v", found)
	}
	if _, err := kubernetesClient(parse(t, dir, "--process-cgroup="), environment{}); err == nil {
		t.Error("mount pods without Kubernetes: no error")
	}
	kubeconfig := "--kubeconfig=" + filepath.Join(t.TempDir(), "missing")
	if _, err := kubernetesClient(parse(t, dir, "--mount-mode=process", "--process-cgroup=", kubeconfig), environment{}); err == nil {
		t.Error("a kubeconfig that is missing: no error")
	}
}
