package metrics_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/juicefs-csi/driver/services/mountmgr/internal/lifecycle"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/metrics"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/probe"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

// source is a mount manager that a test changes.
type source struct {
	records []store.Record
	held    int
	spares  int
	err     error
}

func (s *source) List() []store.Record              { return s.records }
func (s *source) IdleSpares() int                   { return s.spares }
func (s *source) Held(context.Context) (int, error) { return s.held, s.err }

func TestGaugesAreThoseOfTheMoment(t *testing.T) {
	s := &source{held: 2, spares: 3, records: []store.Record{
		{State: lifecycle.Serving, References: make([]store.Reference, 2)},
		{State: lifecycle.Serving, References: make([]store.Reference, 1)},
		{State: lifecycle.Recovering},
	}}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(metrics.NewCollector(s))
	check := func(what, want string) {
		t.Helper()
		if err := testutil.GatherAndCompare(registry, strings.NewReader(want),
			"juicefs_csi_mountmgr_mounts", "juicefs_csi_mountmgr_references", "juicefs_csi_mountmgr_spares",
			"juicefs_csi_mountmgr_vault_descriptors"); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	const mounts = `# HELP juicefs_csi_mountmgr_mounts Mounts of the node by state; docs/mount-states.md describes the states.
# TYPE juicefs_csi_mountmgr_mounts gauge
`
	const references = `# HELP juicefs_csi_mountmgr_references Targets at which the mounts are visible.
# TYPE juicefs_csi_mountmgr_references gauge
`
	const spares = `# HELP juicefs_csi_mountmgr_spares Spare mount pods that wait for a mount.
# TYPE juicefs_csi_mountmgr_spares gauge
`
	check("three mounts", mounts+`juicefs_csi_mountmgr_mounts{state="Draining"} 0
juicefs_csi_mountmgr_mounts{state="Failed"} 0
juicefs_csi_mountmgr_mounts{state="HandingOver"} 0
juicefs_csi_mountmgr_mounts{state="Lost"} 0
juicefs_csi_mountmgr_mounts{state="Pending"} 0
juicefs_csi_mountmgr_mounts{state="Recovering"} 1
juicefs_csi_mountmgr_mounts{state="Remounting"} 0
juicefs_csi_mountmgr_mounts{state="Serving"} 2
juicefs_csi_mountmgr_mounts{state="Starting"} 0
`+references+`juicefs_csi_mountmgr_references 3
`+spares+`juicefs_csi_mountmgr_spares 3
# HELP juicefs_csi_mountmgr_vault_descriptors Connections that fdvault holds a copy of; missing while it is away.
# TYPE juicefs_csi_mountmgr_vault_descriptors gauge
juicefs_csi_mountmgr_vault_descriptors 2
`)
	s.records, s.spares, s.err = nil, 0, errors.New("the vault is away")
	check("no mounts and no vault", mounts+`juicefs_csi_mountmgr_mounts{state="Draining"} 0
juicefs_csi_mountmgr_mounts{state="Failed"} 0
juicefs_csi_mountmgr_mounts{state="HandingOver"} 0
juicefs_csi_mountmgr_mounts{state="Lost"} 0
juicefs_csi_mountmgr_mounts{state="Pending"} 0
juicefs_csi_mountmgr_mounts{state="Recovering"} 0
juicefs_csi_mountmgr_mounts{state="Remounting"} 0
juicefs_csi_mountmgr_mounts{state="Serving"} 0
juicefs_csi_mountmgr_mounts{state="Starting"} 0
`+references+`juicefs_csi_mountmgr_references 0
`+spares+`juicefs_csi_mountmgr_spares 0
`)
}

func TestCounters(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	m, err := metrics.New(registry)
	if err != nil {
		t.Fatal(err)
	}
	m.Recovered()
	m.HandedOver(25 * time.Millisecond)
	m.Published(true, time.Second)
	m.Published(false, time.Millisecond)
	m.Published(false, 3*time.Millisecond)
	m.LostMount()
	m.Remounted()
	m.Upgraded(true)
	m.Upgraded(false)
	m.Upgraded(true)
	m.Probed(probe.TimedOut)
	m.SpareFailed()
	for name, want := range map[string]float64{
		"juicefs_csi_mountmgr_recoveries_total":     1,
		"juicefs_csi_mountmgr_handover_seconds":     1,
		"juicefs_csi_mountmgr_publish_seconds cold": 1,
		"juicefs_csi_mountmgr_publish_seconds warm": 2,
		"juicefs_csi_mountmgr_lost_mounts_total":    1,
		"juicefs_csi_mountmgr_remounts_total":       1,

		"juicefs_csi_mountmgr_upgrades_total committed":   2,
		"juicefs_csi_mountmgr_upgrades_total rolled_back": 1,
		"juicefs_csi_mountmgr_probes_total ok":            0,
		"juicefs_csi_mountmgr_probes_total timeout":       1,
		"juicefs_csi_mountmgr_spare_failures_total":       1,
	} {
		if got := count(t, registry, name); got != want {
			t.Errorf("%s counts %v, want %v", name, got, want)
		}
	}
	if faults, err := testutil.GatherAndLint(registry); err != nil || len(faults) > 0 {
		t.Errorf("lint: %v, %v", faults, err)
	}
	if _, err := metrics.New(registry); err == nil {
		t.Error("the same metrics were registered twice")
	}
}

// count returns a counter, or how often a histogram was observed, by its name
// and the value of its label.
func count(t *testing.T, registry *prometheus.Registry, name string) float64 {
	t.Helper()
	name, label, _ := strings.Cut(name, " ")
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, metric := range family.GetMetric() {
			if label == "" || metric.GetLabel()[0].GetValue() == label {
				return metric.GetCounter().GetValue() + float64(metric.GetHistogram().GetSampleCount())
			}
		}
	}
	return -1
}

func TestNoMetricsCountNothing(t *testing.T) {
	var m *metrics.Metrics
	m.Recovered()
	m.LostMount()
	m.Remounted()
	m.HandedOver(time.Second)
	m.Published(true, time.Second)
	m.LostMount()
	m.Remounted()
	m.Upgraded(true)
	m.Probed(probe.Answered)
	m.SpareFailed()
	t.Log("nothing of it panicked")
}
