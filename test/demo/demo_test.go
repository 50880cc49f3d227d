package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"
)

func TestTheSlowestPeriodOfAWindow(t *testing.T) {
	periods, err := parsePeriods(`2026-11-21T09:43:10.000Z line=100 longest-write=10.87ms longest-fsync=1.16ms
2026-11-21T09:43:11.000Z line=200 longest-write=940µs longest-fsync=12ms
2026-11-21T09:43:12.000Z line=300 longest-write=1.2s longest-fsync=1ms
`)
	if err != nil {
		t.Fatal(err)
	}
	at := func(second int) time.Time { return time.Date(2026, 11, 21, 9, 43, second, 0, time.UTC) }
	got := slowest(periods, at(9), at(11))
	if got.write != 10870*time.Microsecond || got.sync != 12*time.Millisecond || !got.at.Equal(at(11)) {
		t.Errorf("before: %+v", got)
	}
	if got := slowest(periods, at(11), at(60)); got.write != 1200*time.Millisecond {
		t.Errorf("after: %+v", got)
	}
	if _, err := parsePeriods("error: write /data/lines: input/output error"); err == nil {
		t.Error("an error of the writer was taken for a measurement")
	}
}

func TestOptions(t *testing.T) {
	for name, tc := range map[string]struct {
		meta, app, reader string
		nodes             int
		fails             string
	}{
		"sqlite":             {meta: "sqlite", app: "app", nodes: 2, reader: "node-1"},
		"redis":              {meta: "redis", app: "app", nodes: 2, reader: "node-2"},
		"redis, one node":    {meta: "redis", app: "app", nodes: 1, reader: "node-1"},
		"another engine":     {meta: "etcd", app: "app", nodes: 2, fails: "META=etcd"},
		"without make":       {meta: "redis", nodes: 2, fails: "make demo"},
		"upper-case letters": {meta: "Redis", app: "app", nodes: 2, fails: "META=Redis"},
	} {
		o := options{meta: tc.meta, app: tc.app}
		o.cluster.Nodes = tc.nodes
		err := o.validate()
		if tc.fails != "" {
			if err == nil || !strings.Contains(err.Error(), tc.fails) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil || o.readerNode() != tc.reader {
			t.Errorf("%s: %v, reader on %s", name, err, o.readerNode())
		}
	}
}

// TestTheFilesAgree keeps the directory, the class and the placeholders of the
// YAML files what the program expects.
func TestTheFilesAgree(t *testing.T) {
	for _, meta := range []string{"sqlite", "redis"} {
		content, err := os.ReadFile("values-" + meta + ".yaml")
		if err != nil {
			t.Fatal(err)
		}
		var values struct {
			StorageClasses []struct {
				Name       string
				Labels     map[string]string
				Backend    struct{ Bucket string }
				Parameters map[string]string
			}
		}
		if err := yaml.Unmarshal(content, &values); err != nil || len(values.StorageClasses) != 1 {
			t.Fatalf("%s: %v, %+v", meta, err, values)
		}
		sc := values.StorageClasses[0]
		if sc.Name != class || sc.Labels["demo"] != meta || sc.Parameters["juicefs/host-path"] != dataDir ||
			filepath.Dir(filepath.Clean(sc.Backend.Bucket)) != dataDir {
			t.Errorf("%s: %+v", meta, sc)
		}
	}
	manifest := comments(appYAML)
	if strings.HasPrefix(manifest, "#") || strings.Count(manifest, "IMAGE") != 2 || strings.Count(manifest, "READER_NODE") != 1 ||
		!strings.Contains(manifest, "storageClassName: "+class+"\n") {
		t.Errorf("app.yaml is not what the demo expects:\n%s", manifest)
	}
}

func TestLinesAreIndentedAndTimed(t *testing.T) {
	if got := indent("a\n  \nb   \n"); got != "         a\n\n         b\n" {
		t.Errorf("%q", got)
	}
	var out bytes.Buffer
	if _, err := (steps{&demo{out: &out, start: time.Now()}}).Write([]byte("a\nb\n")); err != nil {
		t.Fatal(err)
	}
	if out.String() != "   0.0s  a\n   0.0s  b\n" {
		t.Errorf("%q", out.String())
	}
}
