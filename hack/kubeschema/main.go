// Command kubeschema cuts JSON Schemas for kubeconform out of the OpenAPI
// document of a Kubernetes release, for the kinds that the charts render:
//
//	go run ./hack/kubeschema --openapi api/openapi-spec/swagger.json --output test/charts/testdata/schemas
//
// The document is part of the module k8s.io/kubernetes.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "kubeschema:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	flags := flag.NewFlagSet("kubeschema", flag.ContinueOnError)
	openapi := flags.String("openapi", "", "the OpenAPI v2 document")
	output := flags.String("output", "", "the directory of the schemas")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *openapi == "" || *output == "" {
		return errors.New("--openapi and --output are needed")
	}
	content, err := os.ReadFile(*openapi)
	if err != nil {
		return err
	}
	var document struct {
		Definitions map[string]map[string]any `json:"definitions"`
	}
	if err := json.Unmarshal(content, &document); err != nil {
		return fmt.Errorf("parse %s: %w", *openapi, err)
	}
	if err := os.MkdirAll(*output, 0o750); err != nil {
		return err
	}
	cutter := cutter{definitions: document.Definitions}
	for _, kind := range renderedKinds() {
		if err := cutter.write(*output, kind); err != nil {
			return fmt.Errorf("write the schema of %s: %w", kind.name, err)
		}
	}
	return nil
}

// kind is a kind of object: the name of its definition, its API group and version.
type kind struct{ definition, group, version, name string }

// renderedKinds are the kinds that the charts render.
func renderedKinds() []kind {
	return []kind{
		{"io.k8s.api.apps.v1.DaemonSet", "apps", "v1", "DaemonSet"},
		{"io.k8s.api.apps.v1.Deployment", "apps", "v1", "Deployment"},
		{"io.k8s.api.core.v1.ConfigMap", "", "v1", "ConfigMap"},
		{"io.k8s.api.core.v1.Secret", "", "v1", "Secret"},
		{"io.k8s.api.core.v1.Service", "", "v1", "Service"},
		{"io.k8s.api.core.v1.ServiceAccount", "", "v1", "ServiceAccount"},
		{"io.k8s.api.networking.v1.Ingress", "networking", "v1", "Ingress"},
		{"io.k8s.api.policy.v1.PodDisruptionBudget", "policy", "v1", "PodDisruptionBudget"},
		{"io.k8s.api.rbac.v1.ClusterRole", "rbac", "v1", "ClusterRole"},
		{"io.k8s.api.rbac.v1.ClusterRoleBinding", "rbac", "v1", "ClusterRoleBinding"},
		{"io.k8s.api.rbac.v1.Role", "rbac", "v1", "Role"},
		{"io.k8s.api.rbac.v1.RoleBinding", "rbac", "v1", "RoleBinding"},
		{"io.k8s.api.storage.v1.CSIDriver", "storage", "v1", "CSIDriver"},
		{"io.k8s.api.storage.v1.StorageClass", "storage", "v1", "StorageClass"},
	}
}

// file is the name that kubeconform looks for: kind, first part of the group,
// version.
func (k kind) file() string {
	parts := []string{strings.ToLower(k.name)}
	if k.group != "" {
		parts = append(parts, k.group)
	}
	return strings.Join(append(parts, k.version), "-") + ".json"
}

// cutter copies definitions with all that they refer to.
type cutter struct {
	definitions map[string]map[string]any
}

func (c cutter) write(dir string, k kind) error {
	needed := map[string]any{}
	if err := c.collect(k.definition, needed); err != nil {
		return err
	}
	text, err := json.MarshalIndent(map[string]any{
		"$ref":        "#/definitions/" + k.definition,
		"definitions": needed,
	}, "", " ")
	if err != nil {
		return err
	}
	//nolint:gosec // a source file, read by everybody
	return os.WriteFile(filepath.Join(dir, k.file()), append(text, '\n'), 0o644)
}

// collect adds a definition and those below it.
func (c cutter) collect(name string, needed map[string]any) error {
	if _, ok := needed[name]; ok {
		return nil
	}
	definition, ok := c.definitions[name]
	if !ok {
		return fmt.Errorf("the document has no %s", name)
	}
	if free, ok := looseDefinition(name); ok {
		needed[name] = free
		return nil
	}
	cut := strict(definition)
	needed[name] = cut
	for _, reference := range references(cut) {
		if err := c.collect(reference, needed); err != nil {
			return err
		}
	}
	return nil
}

// looseDefinition is the schema of types that JSON writes in several ways, which
// the document does not tell.
func looseDefinition(name string) (map[string]any, bool) {
	switch name {
	case "io.k8s.apimachinery.pkg.util.intstr.IntOrString":
		return map[string]any{"type": []string{"integer", "string"}}, true
	case "io.k8s.apimachinery.pkg.api.resource.Quantity":
		return map[string]any{"type": []string{"number", "string"}}, true
	}
	return nil, false
}

// strict copies a definition without texts; an object with named fields takes
// no others.
func strict(value any) any {
	switch value := value.(type) {
	case map[string]any:
		copied := map[string]any{}
		for key, inner := range value {
			// A field may be called description too.
			if _, isText := inner.(string); isText && key == "description" || strings.HasPrefix(key, "x-kubernetes-") {
				continue
			}
			copied[key] = strict(inner)
		}
		if _, named := copied["properties"].(map[string]any); named && copied["type"] == "object" {
			copied["additionalProperties"] = false
		}
		return copied
	case []any:
		copied := make([]any, 0, len(value))
		for _, inner := range value {
			copied = append(copied, strict(inner))
		}
		return copied
	}
	return value
}

// references lists the definitions that a schema refers to.
func references(value any) []string {
	var found []string
	switch value := value.(type) {
	case map[string]any:
		for key, inner := range value {
			if text, ok := inner.(string); ok && key == "$ref" {
				found = append(found, strings.TrimPrefix(text, "#/definitions/"))
				continue
			}
			found = append(found, references(inner)...)
		}
	case []any:
		for _, inner := range value {
			found = append(found, references(inner)...)
		}
	}
	return found
}
