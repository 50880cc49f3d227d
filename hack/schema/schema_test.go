package main

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestSchemasAreCurrent compares the committed files.
func TestSchemasAreCurrent(t *testing.T) {
	for name, s := range chartSchemas() {
		want, err := encode(s)
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join("../../charts", name, "values.schema.json"))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Errorf("schema of %s is not current, run: go run ./hack/schema (-want +got):\n%s", name, diff)
		}
	}
}

// TestEveryChartHasASchema finds a chart that the table forgot.
func TestEveryChartHasASchema(t *testing.T) {
	files, err := filepath.Glob("../../charts/*/Chart.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, file := range files {
		got = append(got, filepath.Base(filepath.Dir(file)))
	}
	if diff := cmp.Diff(slices.Sorted(maps.Keys(chartSchemas())), got); diff != "" {
		t.Errorf("charts (-want +got):\n%s", diff)
	}
}
