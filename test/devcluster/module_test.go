package devcluster

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/mod/modfile"
)

const upstreamMod = `module k8s.io/kubernetes

go 1.25.0

godebug default=go1.25

require (
	github.com/spf13/cobra v1.10.0
	go.etcd.io/etcd/client/v3 v3.6.5
	k8s.io/api v0.0.0
	k8s.io/component-base v0.0.0
	k8s.io/klog/v2 v2.130.1
)

require go.etcd.io/etcd/server/v3 v3.6.5 // indirect

replace (
	k8s.io/api => ./staging/src/k8s.io/api
	k8s.io/component-base => ./staging/src/k8s.io/component-base
	k8s.io/kubectl => ./staging/src/k8s.io/kubectl
	example.com/other => example.com/fork v1.2.3
)
`

func TestRewriteModule(t *testing.T) {
	data, err := rewriteModule([]byte(upstreamMod), "v1.34.6")
	if err != nil {
		t.Fatal(err)
	}
	file, err := modfile.Parse("go.mod", data, nil)
	if err != nil {
		t.Fatalf("the result does not parse: %v\n%s", err, data)
	}
	if file.Module.Mod.Path != binaryModule || file.Go.Version != "1.25.0" {
		t.Errorf("module %s, go %s", file.Module.Mod.Path, file.Go.Version)
	}
	requires := map[string]string{}
	for _, r := range file.Require {
		requires[r.Mod.Path] = r.Mod.Version
	}
	for module, version := range map[string]string{
		"k8s.io/kubernetes":         "v1.34.6",
		"k8s.io/component-base":     "v0.34.6",
		"k8s.io/kubectl":            "v0.34.6", // only in a replace directive upstream
		"k8s.io/klog/v2":            "v2.130.1",
		"go.etcd.io/etcd/server/v3": "v3.6.5",
		"github.com/spf13/cobra":    "v1.10.0",
	} {
		if requires[module] != version {
			t.Errorf("requires %s %q, want %s", module, requires[module], version)
		}
	}
	replaces := map[string]string{}
	for _, r := range file.Replace {
		replaces[r.Old.Path] = r.New.Path + " " + r.New.Version
	}
	if len(replaces) != 3 {
		t.Errorf("replaces %v, want the three staging modules", replaces)
	}
	for _, module := range []string{"k8s.io/api", "k8s.io/component-base", "k8s.io/kubectl"} {
		if replaces[module] != module+" v0.34.6" {
			t.Errorf("replaces %s by %q", module, replaces[module])
		}
	}
}

func TestStagingVersion(t *testing.T) {
	if got, err := stagingVersion("v1.36.0-rc.1"); err != nil || got != "v0.36.0-rc.1" {
		t.Errorf("got %q, %v", got, err)
	}
	for _, version := range []string{"", "1.35.4", "v1.35", "v2.0.0", "latest"} {
		if _, err := stagingVersion(version); err == nil {
			t.Errorf("version %q was accepted", version)
		}
	}
}

func TestCommittedModulePinsOneRelease(t *testing.T) {
	data, err := os.ReadFile("kubernetes/go.mod")
	if err != nil {
		t.Fatal(err)
	}
	version, err := requiredKubernetes(data)
	if err != nil {
		t.Fatal(err)
	}
	staging, err := stagingVersion(version)
	if err != nil {
		t.Fatal(err)
	}
	file, err := modfile.Parse("go.mod", data, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(file.Replace) == 0 {
		t.Error("no staging module is replaced")
	}
	for _, r := range file.Replace {
		if r.New.Version != staging {
			t.Errorf("%s is replaced by %s, want %s", r.Old.Path, r.New.Version, staging)
		}
	}
	versions, err := os.ReadFile("../../versions.mk")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(versions)) {
		if name, value, ok := strings.Cut(line, ":="); ok && strings.TrimSpace(name) == "KUBERNETES_VERSION" {
			if got := strings.TrimSpace(value); got != version {
				t.Errorf("versions.mk says %s, the module pins %s", got, version)
			}
			return
		}
	}
	t.Error("versions.mk names no KUBERNETES_VERSION")
}

func TestContainerdFits(t *testing.T) {
	for _, tc := range []struct {
		containerd, kubernetes string
		ok                     bool
	}{
		{"containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3", "v1.35.4", true},
		{"containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3", "v1.36.0", false},
		{"containerd github.com/containerd/containerd/v2 v2.1.4 abc", "v1.36.0", true},
		{"containerd", "v1.35.4", false},
	} {
		if err := containerdFits(tc.containerd, tc.kubernetes); (err == nil) != tc.ok {
			t.Errorf("%s with Kubernetes %s: %v", tc.containerd, tc.kubernetes, err)
		}
	}
}

func TestVersionFlags(t *testing.T) {
	flags := versionFlags("v1.35.4")
	for _, want := range []string{
		"-X k8s.io/component-base/version.gitVersion=v1.35.4",
		"-X k8s.io/client-go/pkg/version.gitVersion=v1.35.4",
		"-X k8s.io/component-base/version.gitMinor=35",
	} {
		if !strings.Contains(flags, want) {
			t.Errorf("%q lacks %q", flags, want)
		}
	}
}
