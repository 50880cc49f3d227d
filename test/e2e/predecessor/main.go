// Command predecessor stands in for the node plugin of the existing JuiceFS CSI
// driver on a node of the local cluster: it registers with kubelet under the
// same name, binds targets to the mounts that mount pods make, and keeps the
// descriptors that their clients hand to it. The mount pods themselves are made
// by the test. It ends with SIGTERM and leaves everything as it is.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	registrationv1 "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/juicefs-csi/driver/libs/endpoint"
	"github.com/juicefs-csi/driver/libs/task"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "predecessor:", err)
		os.Exit(1)
	}
}

func run() error {
	var p plugin
	kubeletDir := flag.String("kubelet-dir", "/var/lib/kubelet", "kubelet's root directory")
	keeper := flag.String("keeper", "", "socket at which a client's descriptor is kept")
	flag.StringVar(&p.driver, "driver", "csi.juicefs.com", "name of the driver")
	flag.StringVar(&p.node, "node", "", "name of the node")
	flag.StringVar(&p.mount, "mount", "", "mount that targets are bound to")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	p.endpoint = filepath.Join(*kubeletDir, "csi-plugins", p.driver, "csi.sock")

	plugins, registrations := grpc.NewServer(), grpc.NewServer()
	csi.RegisterIdentityServer(plugins, &p)
	csi.RegisterNodeServer(plugins, &p)
	registrationv1.RegisterRegistrationServer(registrations, &p)
	group := task.NewGroup(ctx)
	group.Go("csi", serve(plugins, p.endpoint))
	group.Go("registration", serve(registrations, filepath.Join(*kubeletDir, "plugins_registry", p.driver+"-reg.sock")))
	group.Go("keeper", func(ctx context.Context) error { return keep(ctx, *keeper) })
	return group.Wait()
}

// serve serves at a socket until ctx ends.
func serve(server *grpc.Server, path string) func(context.Context) error {
	return func(ctx context.Context) error {
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			return err
		}
		address, err := endpoint.Parse("unix://" + path)
		if err != nil {
			return err
		}
		listener, err := endpoint.Listen(ctx, address)
		if err != nil {
			return err
		}
		go func() {
			<-ctx.Done()
			server.Stop()
		}()
		return server.Serve(listener)
	}
}
