package metrics

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// paths is a collector of the health of each path that somebody has asked for,
// until its volume is taken away.
type paths struct {
	description *prometheus.Desc

	mu    sync.Mutex
	known map[string]volume
	// asking counts the questions about a path that have no answer yet.
	asking map[string]int
	// dropped are the paths that were unpublished while they were asked about:
	// the answer comes too late, and nobody would drop it again.
	dropped map[string]bool
}

type volume struct {
	id      string
	healthy bool
}

func newPaths(labels prometheus.Labels) *paths {
	return &paths{
		description: prometheus.NewDesc("juicefs_volume_path_health",
			"Whether the volume at a target path answers: 1, or 0. Known from kubelet's last question for its usage.",
			[]string{"volume_id", "volume_path", "pod_uid"}, labels),
		known: make(map[string]volume), asking: make(map[string]int), dropped: make(map[string]bool),
	}
}

func (p *paths) begin(path string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asking[path]++
}

func (p *paths) end(volumeID, path string, health Health) {
	p.mu.Lock()
	defer p.mu.Unlock()
	late := p.dropped[path]
	if p.asking[path]--; p.asking[path] == 0 {
		delete(p.asking, path)
		delete(p.dropped, path)
	}
	switch {
	case late, health == Unknown:
	case health == Absent:
		delete(p.known, path)
	default:
		p.known[path] = volume{id: volumeID, healthy: health == Healthy}
	}
}

func (p *paths) drop(path string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.known, path)
	if p.asking[path] > 0 {
		p.dropped[path] = true
	}
}

// Describe implements prometheus.Collector.
func (p *paths) Describe(descriptions chan<- *prometheus.Desc) { descriptions <- p.description }

// Collect implements prometheus.Collector.
func (p *paths) Collect(found chan<- prometheus.Metric) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for path, volume := range p.known {
		value := 0.0
		if volume.healthy {
			value = 1
		}
		found <- prometheus.MustNewConstMetric(p.description, prometheus.GaugeValue, value, volume.id, path, podUID(path))
	}
}
