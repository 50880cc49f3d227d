package charts

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/client-go/kubernetes/scheme"
)

const (
	chartsDir = "../../charts"
	umbrella  = "juicefs-csi"
	// kubeVersion is that of the schemas in testdata.
	kubeVersion = "1.35.4"
	namespace   = "kube-system"
)

// subcharts are the charts of the services.
func subcharts() []string { return []string{"controller", "dashboard", "mountmgr", "node"} }

// tool finds a program by the environment variable that make sets, or in PATH.
func tool(t *testing.T, variable, name string) string {
	t.Helper()
	if path := os.Getenv(variable); path != "" {
		return path
	}
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("no %s: set %s, or run the tests by make", name, variable)
	}
	return path
}

// helm runs helm, and returns what it wrote. Helm tells on standard error of
// every symbolic link that it follows: those lines are left out.
func helm(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	command := exec.CommandContext(t.Context(), tool(t, "HELM", "helm"), args...)
	var out, messages bytes.Buffer
	command.Stdout, command.Stderr = &out, &messages
	err = command.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("start helm: %v", err)
	}
	var kept []string
	for line := range strings.Lines(messages.String()) {
		if !strings.Contains(line, "found symbolic link in path") {
			kept = append(kept, line)
		}
	}
	return out.String(), strings.Join(kept, ""), err
}

// render renders a chart with a values file, or with the defaults.
func render(t *testing.T, chart, values string) string {
	t.Helper()
	args := []string{
		"template", "juicefs-csi", filepath.Join(chartsDir, chart),
		"--namespace", namespace, "--kube-version", kubeVersion,
	}
	if values != "" {
		args = append(args, "--values", values)
	}
	stdout, stderr, err := helm(t, args...)
	if err != nil {
		t.Fatalf("render %s: %v\n%s", chart, err, stderr)
	}
	return stdout
}

// decode parses rendered manifests. A field that the Kubernetes API does not
// know is a failure.
func decode(t *testing.T, manifests string) []runtime.Object {
	t.Helper()
	decoder := json.NewSerializerWithOptions(json.DefaultMetaFactory, scheme.Scheme, scheme.Scheme,
		json.SerializerOptions{Yaml: true, Strict: true})
	var objects []runtime.Object
	for document := range strings.SplitSeq("\n"+manifests, "\n---\n") {
		if strings.TrimSpace(document) == "" {
			continue
		}
		object, _, err := decoder.Decode([]byte(document), nil, nil)
		if err != nil {
			t.Fatalf("decode: %v\n%s", err, document)
		}
		objects = append(objects, object)
	}
	if len(objects) == 0 {
		t.Fatal("nothing was rendered")
	}
	return objects
}
