package charts

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

// TestRefusedValues gives values that a user may get wrong.
func TestRefusedValues(t *testing.T) {
	tests := []struct {
		name, chart string
		values      string
		want        []string
	}{
		{"unknown key", umbrella, "node: {hostNetwork: true}", []string{"node", "'hostNetwork' not allowed"}},
		{"unknown key alone", "node", "replicas: 2", []string{"'replicas' not allowed"}},
		{"unknown key at the top", umbrella, "mountmanager: {}", []string{"'mountmanager' not allowed"}},
		{"unknown global key", "dashboard", "global: {driver: a}", []string{"'driver' not allowed"}},
		{"relative directory", umbrella, "global: {kubeletDir: var/lib/kubelet}", []string{"/global/kubeletDir"}},
		{"driver name", umbrella, "global: {driverName: a/b}", []string{"/global/driverName"}},
		{"mount mode", umbrella, "mountMode: sidecar", []string{"/mountMode", "mountpod"}},
		{"mount mode of one chart only", umbrella, "mountMode: process", []string{"set mountmgr.mountMode to process"}},
		{"mount mode of the mount manager", "mountmgr", "mountMode: mountpod", []string{"/mountMode"}},
		{"lease", "controller", "leaderElection: {leaseDuration: 15}", []string{"/leaderElection/leaseDuration"}},
		{"digest", "node", "image: {digest: latest}", []string{"/image/digest"}},
		{"port", "node", "metricsPort: 70000", []string{"/metricsPort"}},
		{"class without a name", umbrella, "storageClasses: [{existingSecret: a}]", []string{"/storageClasses/0", "'name'"}},
		{"class with a misspelt key", umbrella, "storageClasses: [{name: a, backend: {name: b, metaUrl: c}}]", []string{"'metaUrl' not allowed"}},
		{
			"class without a file system", umbrella, "storageClasses: [{name: a}]",
			[]string{"storageClasses: a: set backend or existingSecret"},
		},
		{
			"keys of the existing driver's chart", umbrella, "{kubeletDir: /a, image: {tag: b}, webhook: {}}",
			[]string{"kubeletDir: set global.kubeletDir", "image: set global.image", "webhook: not supported"},
		},
		{
			"settings in the wrong chart", umbrella, "mountmgr: {globalConfig: {enabled: true}}",
			[]string{"set globalConfig of the chart juicefs-csi"},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "values.yaml")
			if err := os.WriteFile(file, []byte(test.values+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			stdout, stderr, err := helm(t, "template", "a", filepath.Join(chartsDir, test.chart),
				"--kube-version", kubeVersion, "--values", file)
			if err == nil {
				t.Fatalf("accepted:\n%s", stdout)
			}
			for _, want := range test.want {
				if !strings.Contains(stderr, want) {
					t.Errorf("message lacks %q:\n%s", want, stderr)
				}
			}
		})
	}
}

// TestServicesCanBeLeftOut renders the umbrella chart with one service less.
func TestServicesCanBeLeftOut(t *testing.T) {
	for _, chart := range subcharts() {
		t.Run(chart, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "values.yaml")
			if err := os.WriteFile(file, []byte(chart+": {enabled: false}\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			left := bySource(render(t, umbrella, file))
			for source := range bySource(render(t, umbrella, "")) {
				_, has := left[source]
				if want := !strings.HasPrefix(source, umbrella+"/charts/"+chart+"/"); has != want {
					t.Errorf("%s rendered = %t, want %t", source, has, want)
				}
			}
		})
	}
}

// chartFile is a Chart.yaml.
type chartFile struct {
	Name         string `json:"name"`
	Version      string `json:"version"`
	AppVersion   string `json:"appVersion"`
	KubeVersion  string `json:"kubeVersion"`
	Dependencies []struct {
		Name, Version, Repository, Condition string
	} `json:"dependencies"`
}

func readChart(t *testing.T, chart string) chartFile {
	t.Helper()
	var file chartFile
	readYAML(t, filepath.Join(chartsDir, chart, "Chart.yaml"), &file)
	return file
}

func readYAML(t *testing.T, path string, into any) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(content, into); err != nil {
		t.Fatalf("parse %s: %v", path, err)
	}
}

// TestVersionsAgree: the charts are released together, and the umbrella chart
// links to the directories of the others.
func TestVersionsAgree(t *testing.T) {
	main := readChart(t, umbrella)
	if want := "v" + main.Version; main.AppVersion != want {
		t.Errorf("appVersion = %s, want %s", main.AppVersion, want)
	}
	var dependencies []string
	for _, dependency := range main.Dependencies {
		dependencies = append(dependencies, dependency.Name)
		chart := readChart(t, dependency.Name)
		if chart.Version != main.Version || dependency.Version != main.Version || chart.AppVersion != main.AppVersion ||
			chart.KubeVersion != main.KubeVersion {
			t.Errorf("versions of %s and its dependency entry differ from the umbrella's: %+v, %+v", chart.Name, chart, dependency)
		}
		if want := "file://../" + chart.Name; dependency.Repository != want {
			t.Errorf("repository of %s = %s, want %s", chart.Name, dependency.Repository, want)
		}
		if want := chart.Name + ".enabled"; dependency.Condition != want {
			t.Errorf("condition of %s = %s, want %s", chart.Name, dependency.Condition, want)
		}
		link := filepath.Join(chartsDir, umbrella, "charts", chart.Name)
		if target, err := os.Readlink(link); err != nil || target != "../../"+chart.Name {
			t.Errorf("%s links to %q (%v), want ../../%s", link, target, err, chart.Name)
		}
	}
	if diff := cmp.Diff([]string{"controller", "node", "mountmgr", "dashboard"}, dependencies); diff != "" {
		t.Errorf("dependencies (-want +got):\n%s", diff)
	}
}

// TestSharedDefaults: a service has the same defaults alone and under the
// umbrella chart, and the images are those of versions.mk.
func TestSharedDefaults(t *testing.T) {
	type values struct {
		Global map[string]any `json:"global"`
	}
	var main values
	readYAML(t, filepath.Join(chartsDir, umbrella, "values.yaml"), &main)
	for _, chart := range subcharts() {
		var alone values
		readYAML(t, filepath.Join(chartsDir, chart, "values.yaml"), &alone)
		if diff := cmp.Diff(main.Global, alone.Global); diff != "" {
			t.Errorf("global of %s (-umbrella +alone):\n%s", chart, diff)
		}
	}
	pins, err := os.ReadFile("../../versions.mk")
	if err != nil {
		t.Fatal(err)
	}
	images, ok := main.Global["defaultMountImage"].(map[string]any)
	if !ok {
		t.Fatalf("defaultMountImage = %v", main.Global["defaultMountImage"])
	}
	for key, variable := range map[string]string{"ce": "CE_MOUNT_IMAGE", "ee": "EE_MOUNT_IMAGE"} {
		match := regexp.MustCompile(`(?m)^` + variable + `\s*:=\s*(\S+)$`).FindSubmatch(pins)
		if match == nil || images[key] != string(match[1]) {
			t.Errorf("defaultMountImage.%s = %v, versions.mk has %q", key, images[key], match)
		}
	}
}

// TestSchemasAreOfThePinnedKubernetes: the local cluster and the schemas have
// one version.
func TestSchemasAreOfThePinnedKubernetes(t *testing.T) {
	pins, err := os.ReadFile("../../versions.mk")
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`(?m)^KUBERNETES_VERSION\s*:=\s*v` + regexp.QuoteMeta(kubeVersion) + `$`).Match(pins) {
		t.Errorf("versions.mk has another Kubernetes than %s: cut the schemas anew by hack/kubeschema", kubeVersion)
	}
}
