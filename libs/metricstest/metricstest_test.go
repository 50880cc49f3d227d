package metricstest_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/juicefs-csi/driver/libs/metricstest"
)

// failures is a test that goes on and keeps what it is told.
type failures struct {
	testing.TB
	told []string
}

func (*failures) Helper()             {}
func (f *failures) Error(what ...any) { f.told = append(f.told, fmt.Sprint(what...)) }
func (f *failures) Errorf(format string, what ...any) {
	f.told = append(f.told, fmt.Sprintf(format, what...))
}

func TestDocumented(t *testing.T) {
	registry := prometheus.NewRegistry()
	counter := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "juicefs_done_total", Help: `With "quotes".`, ConstLabels: prometheus.Labels{"node_name": "n"},
	}, []string{"result", "kind"})
	counter.WithLabelValues("ok", "warm")
	registry.MustRegister(counter, prometheus.NewGauge(prometheus.GaugeOpts{Name: "juicefs_size", Help: "Size."}))
	const done = "| `juicefs_done_total` | counter | `kind`, `node_name`, `result` | | what |\n"
	const size = "| `juicefs_size` | gauge | | bytes | what |\n"
	for name, c := range map[string]struct {
		text, want string
	}{
		"complete":         {done + size, ""},
		"not documented":   {done, "does not list juicefs_size"},
		"not there":        {done + size + "| `juicefs_more` | gauge | | | what |\n", "lists juicefs_more, which is not there"},
		"other labels":     {strings.Replace(done, "`kind`, ", "", 1) + size, "lists juicefs_done_total with the labels"},
		"another type":     {done + strings.Replace(size, "gauge", "counter", 1), "juicefs_size is documented as counter"},
		"another section":  {done + "\n## Other\n" + size, "does not list juicefs_size"},
		"rule":             {done + size + "```yaml\nexpr: rate(juicefs_done_total[1m]) > juicefs_size_bucket\n```\n", ""},
		"rule of nothing":  {done + size + "```yaml\nexpr: juicefs_lost > 0\n```\n", "a rule uses juicefs_lost"},
		"no table at all":  {"", "has no table below ## Service"},
		"a table of flags": {done + size + "| `--flag` | meaning |\n", ""},
	} {
		path := filepath.Join(t.TempDir(), "metrics.md")
		if err := os.WriteFile(path, []byte("# Metrics\n\n## Service\n\n"+c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		found := &failures{TB: t}
		metricstest.Documented(found, path, registry, "Service")
		told := strings.Join(found.told, "\n")
		if (c.want == "") != (told == "") || !strings.Contains(told, c.want) {
			t.Errorf("%s: %q, want %q", name, told, c.want)
		}
	}
}
