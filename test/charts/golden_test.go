// Package charts tests what the Helm charts render.
package charts

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files and deploy/k8s.yaml anew")

// rendering is a chart with values, and the file with what it renders.
type rendering struct {
	name, chart, values, golden string
}

func renderings() []rendering {
	all := []rendering{{name: "deploy", chart: umbrella, golden: "../../deploy/k8s.yaml"}}
	for _, chart := range subcharts() {
		all = append(all, rendering{name: chart, chart: chart, golden: filepath.Join("testdata", chart+".golden.yaml")})
	}
	for name, chart := range map[string]string{
		"umbrella":                  umbrella,
		"controller-stock-sidecars": "controller",
		"dashboard-ingress":         "dashboard",
		"mountmgr-config":           "mountmgr",
		"mountmgr-process":          "mountmgr",
	} {
		dir := filepath.Join("testdata", name)
		all = append(all, rendering{
			name: name, chart: chart,
			values: filepath.Join(dir, "values.yaml"), golden: filepath.Join(dir, "golden.yaml"),
		})
	}
	return all
}

func TestGolden(t *testing.T) {
	for _, r := range renderings() {
		t.Run(r.name, func(t *testing.T) {
			got := render(t, r.chart, r.values)
			if *update {
				if err := os.WriteFile(r.golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(r.golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("%s differs; when that is meant, run: go test ./test/charts -update (-want +got):\n%s", r.golden, diff)
			}
			if i := slices.IndexFunc(strings.Split(got, "\n"), trailingSpace); i >= 0 {
				t.Errorf("line %d ends with a space", i+1)
			}
		})
	}
}

func trailingSpace(line string) bool { return strings.HasSuffix(line, " ") }

// TestKubernetesAccepts decodes all that is rendered into the types of the
// Kubernetes API, and lets kubeconform compare it with the API's schemas.
func TestKubernetesAccepts(t *testing.T) {
	for _, r := range renderings() {
		t.Run(r.name, func(t *testing.T) {
			manifests := render(t, r.chart, r.values)
			decode(t, manifests)
			if output, err := kubeconform(t, manifests); err != nil {
				t.Errorf("kubeconform: %v\n%s", err, output)
			}
		})
	}
}

// TestKubeconformFindsFaults makes sure that the schemas are strict.
func TestKubeconformFindsFaults(t *testing.T) {
	const head = "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: a}\n"
	for name, manifest := range map[string]string{
		"unknown field": head + "automountToken: false\n",
		"wrong type":    head + "automountServiceAccountToken: \"no\"\n",
		"twice":         head + "secrets: []\nsecrets: []\n",
		"unknown kind":  "apiVersion: v1\nkind: ServiceAccounts\nmetadata: {name: a}\n",
	} {
		t.Run(name, func(t *testing.T) {
			if output, err := kubeconform(t, manifest); err == nil {
				t.Errorf("accepted:\n%s\n%s", manifest, output)
			}
		})
	}
	if output, err := kubeconform(t, head); err != nil {
		t.Errorf("a right object is refused: %v\n%s", err, output)
	}
}

// kubeconform validates manifests against the schemas in testdata.
func kubeconform(t *testing.T, manifests string) (string, error) {
	t.Helper()
	command := exec.CommandContext(t.Context(), tool(t, "KUBECONFORM", "kubeconform"), "-strict", "-summary",
		"-schema-location", "testdata/schemas/{{.ResourceKind}}{{.KindSuffix}}.json", "-")
	command.Stdin = strings.NewReader(manifests)
	output, err := command.CombinedOutput()
	return string(output), err
}

func TestLint(t *testing.T) {
	for _, chart := range append(subcharts(), umbrella) {
		t.Run(chart, func(t *testing.T) {
			stdout, stderr, err := helm(t, "lint", filepath.Join(chartsDir, chart), "--strict", "--kube-version", kubeVersion)
			if err != nil {
				t.Errorf("lint: %v\n%s%s", err, stdout, stderr)
			}
		})
	}
}

// TestUmbrellaIsItsParts compares what the umbrella chart renders for a service
// with what the service's chart renders alone: they are interchangeable.
func TestUmbrellaIsItsParts(t *testing.T) {
	sources := bySource(render(t, umbrella, ""))
	for _, chart := range subcharts() {
		for source, want := range bySource(render(t, chart, "")) {
			got := sources[fmt.Sprintf("%s/charts/%s", umbrella, source)]
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s (-alone +umbrella):\n%s", source, diff)
			}
		}
	}
}

// bySource sorts rendered documents by the template that they come from.
func bySource(manifests string) map[string]string {
	sources := map[string]string{}
	for document := range strings.SplitSeq(manifests, "---\n") {
		header, body, ok := strings.Cut(document, "\n")
		if source, found := strings.CutPrefix(header, "# Source: "); ok && found {
			sources[source] += body
		}
	}
	return sources
}
