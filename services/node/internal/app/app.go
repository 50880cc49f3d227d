package app

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	registrationv1 "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/juicefs-csi/driver/libs/endpoint"
	"github.com/juicefs-csi/driver/libs/grpcserver"
	"github.com/juicefs-csi/driver/libs/logkeys"
	"github.com/juicefs-csi/driver/libs/metricsserver"
	"github.com/juicefs-csi/driver/libs/task"
	"github.com/juicefs-csi/driver/libs/version"
	"github.com/juicefs-csi/driver/services/node/internal/driver"
	"github.com/juicefs-csi/driver/services/node/internal/metrics"
	"github.com/juicefs-csi/driver/services/node/internal/mounter"
	"github.com/juicefs-csi/driver/services/node/internal/registration"
	"github.com/juicefs-csi/driver/services/node/internal/socket"
)

// reachTimeout leaves a mount manager the time to restart, and users a reason in
// the pod's events long before kubelet's own limit of 2 min.
const reachTimeout = 10 * time.Second

// Run serves until ctx ends or a part fails.
func Run(ctx context.Context, o Options) error {
	o.complete()
	if err := o.validate(); err != nil {
		return err
	}
	level, err := o.level()
	if err != nil {
		return err
	}
	log := slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	csiEndpoint, err := endpoint.Parse(o.Endpoint)
	if err != nil {
		return fmt.Errorf("--endpoint: %w", err)
	}
	mounts, err := mounter.Dial(mounter.Options{Target: o.MountManager, Caller: "juicefs-csi-node", ReachTimeout: reachTimeout})
	if err != nil {
		return fmt.Errorf("--mountmgr: %w", err)
	}
	defer mounts.Close() //nolint:errcheck // nothing is left to do with it
	registry := metricsserver.NewRegistry()
	counted, err := metrics.New(registry, o.NodeName)
	if err != nil {
		return err
	}
	kubelet := registration.New(o.DriverName, csiEndpoint.Address)

	log.InfoContext(ctx, "node plugin starts",
		logkeys.Release, version.Release(), logkeys.Driver, o.DriverName, logkeys.Node, o.NodeName, logkeys.Endpoint, o.Endpoint)
	group := task.NewGroup(ctx)
	group.Go("csi", func(ctx context.Context) error {
		return socket.Serve(ctx, csiEndpoint, func() *grpcserver.Server {
			server := grpcserver.New(grpcserver.Options{Name: "csi", Logger: log, Registry: registry})
			csi.RegisterIdentityServer(server, &driver.Identity{Name: o.DriverName, Mounter: mounts})
			csi.RegisterNodeServer(server, &driver.Node{NodeName: o.NodeName, Mounter: mounts, Metrics: counted})
			return server
		})
	})
	if o.registers() {
		group.Go("registration", func(ctx context.Context) error {
			return socket.Serve(ctx, o.registration(), func() *grpcserver.Server {
				server := grpcserver.New(grpcserver.Options{Name: "registration", Logger: log, Registry: registry})
				registrationv1.RegisterRegistrationServer(server, kubelet)
				return server
			})
		})
		group.Go("registration status", kubelet.Wait)
	}
	// Not ready because of the mount manager would restart this process, which
	// mends nothing.
	group.Go("metrics", func(ctx context.Context) error {
		return metricsserver.Serve(ctx, metricsserver.Options{Address: o.MetricsAddress, Gatherer: registry})
	})
	return group.Wait()
}
