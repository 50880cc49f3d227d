package app

import (
	"log/slog"
	"testing"

	"github.com/juicefs-csi/driver/libs/grpcserver"
	"github.com/juicefs-csi/driver/libs/metricsserver"
	"github.com/juicefs-csi/driver/libs/metricstest"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/custody"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/manager"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/metrics"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/spare"
)

func TestMetricsAreDocumented(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	registry := metricsserver.NewRegistry()
	if _, err := metrics.New(registry); err != nil {
		t.Fatal(err)
	}
	mounts := manager.New(manager.Options{}, manager.Parts{
		Log: log, Vault: custody.NewClient(t.TempDir()+"/none", log), Spares: spare.New(spare.Options{}, nil, nil, log),
	})
	if err := (&observers{log: log}).attach(mounts, nil, nil, registry); err != nil {
		t.Fatal(err)
	}
	grpcserver.New(grpcserver.Options{Name: "test", Logger: log, Registry: registry})
	metricstest.Documented(t, "../../../../docs/metrics.md", registry, "Every service", "gRPC", "Mount manager")
}
