package app

import (
	"log/slog"
	"testing"

	"github.com/juicefs-csi/driver/libs/metricsserver"
	"github.com/juicefs-csi/driver/libs/metricstest"
	"github.com/juicefs-csi/driver/services/dashboard/internal/api"
)

func TestMetricsAreDocumented(t *testing.T) {
	registry := metricsserver.NewRegistry()
	routes(&api.Service{}, registry, slog.New(slog.DiscardHandler))
	metricstest.Documented(t, "../../../../docs/metrics.md", registry, "Every service", "Dashboard")
}
