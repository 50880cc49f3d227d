package app_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/spf13/pflag"
	registrationv1 "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/juicefs-csi/driver/libs/grpcclient"
	"github.com/juicefs-csi/driver/libs/mountmgrtest"
	"github.com/juicefs-csi/driver/services/node/internal/app"
)

func parse(t *testing.T, arguments ...string) app.Options {
	t.Helper()
	var options app.Options
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	options.AddFlags(flags)
	if err := flags.Parse(arguments); err != nil {
		t.Fatal(err)
	}
	return options
}

func TestDefaultsAreValid(t *testing.T) {
	options := parse(t, "--node-name=node-1")
	if err := options.Validate(); err != nil {
		t.Error(err)
	}
}

func TestValidateTellsEveryFault(t *testing.T) {
	options := parse(t, "--endpoint=tcp://:1", "--registration-dir=relative", "--kubelet-dir=relative",
		"--mountmgr=/plain/path", "--driver-name=not a name", "--log-level=loud")
	err := options.Validate()
	if err == nil {
		t.Fatal("no error")
	}
	for _, flag := range []string{
		"--endpoint", "--registration-dir", "--kubelet-dir", "--node-name", "--mountmgr", "--driver-name", "--log-level",
	} {
		if !strings.Contains(err.Error(), flag) {
			t.Errorf("%s is not named in %v", flag, err)
		}
	}
}

// node is a running node plugin.
type node struct {
	directory string
	done      chan error
	stop      context.CancelFunc
	csi       csi.IdentityClient
	kubelet   registrationv1.RegistrationClient
}

func (n *node) socket() string {
	return filepath.Join(n.directory, "csi-plugins", "csi.juicefs.com", "csi.sock")
}

func (n *node) registration() string {
	return filepath.Join(n.directory, "plugins_registry", "csi.juicefs.com-reg.sock")
}

func start(t *testing.T, more ...string) *node {
	t.Helper()
	// t.TempDir is named after the test and may be longer than a socket's path.
	directory, err := os.MkdirTemp("", "node") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(directory); err != nil {
			t.Error(err)
		}
	})
	n := &node{directory: directory, done: make(chan error, 1)}
	fake := mountmgrtest.NewFake(mountmgrtest.Options{})
	options := parse(t, append([]string{
		"--node-name=node-1", "--kubelet-dir=" + directory, "--metrics-address=", "--mountmgr=" + mountmgrtest.Serve(t, fake),
	}, more...)...)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	n.stop = cancel
	ended := make(chan struct{})
	go func() {
		n.done <- app.Run(ctx, options)
		close(ended)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	csiConnection, err := grpcclient.Dial("unix://"+n.socket(), grpcclient.Options{Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { csiConnection.Close() })
	kubeletConnection, err := grpcclient.Dial("unix://"+n.registration(), grpcclient.Options{Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { kubeletConnection.Close() })
	n.csi = csi.NewIdentityClient(csiConnection)
	n.kubelet = registrationv1.NewRegistrationClient(kubeletConnection)
	return n
}

func TestRegistersAndServes(t *testing.T) {
	n := start(t)
	info, err := n.kubelet.GetInfo(t.Context(), &registrationv1.InfoRequest{})
	if err != nil || info.GetEndpoint() != n.socket() {
		t.Fatalf("GetInfo: %v, %v, want endpoint %s", info, err, n.socket())
	}
	probe, err := n.csi.Probe(t.Context(), &csi.ProbeRequest{})
	if err != nil || !probe.GetReady().GetValue() {
		t.Errorf("probe: %v, %v", probe, err)
	}
	n.stop()
	if err := <-n.done; err != nil {
		t.Errorf("end: %v", err)
	}
	for _, path := range []string{n.socket(), n.registration()} {
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left behind: %v", path, err)
		}
	}
}

// Orchestrators other than Kubernetes are told where the CSI socket is.
func TestServesWithoutRegistration(t *testing.T) {
	n := start(t, "--registration-dir=none")
	probe, err := n.csi.Probe(t.Context(), &csi.ProbeRequest{})
	if err != nil || !probe.GetReady().GetValue() {
		t.Errorf("probe: %v, %v", probe, err)
	}
	if _, err := os.Lstat(filepath.Dir(n.registration())); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a registration directory was made: %v", err)
	}
	n.stop()
	if err := <-n.done; err != nil {
		t.Errorf("end: %v", err)
	}
}

func TestSocketsComeBack(t *testing.T) {
	n := start(t)
	if _, err := n.kubelet.GetInfo(t.Context(), &registrationv1.InfoRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := n.csi.Probe(t.Context(), &csi.ProbeRequest{}); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{n.socket(), n.registration()} {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for _, path := range []string{n.socket(), n.registration()} {
		for {
			if _, err := os.Lstat(path); err == nil {
				break
			}
			select {
			case <-ctx.Done():
				t.Fatalf("%s does not come back", path)
			case <-ticker.C:
			}
		}
	}
	if _, err := n.kubelet.GetInfo(ctx, &registrationv1.InfoRequest{}); err != nil {
		t.Error(err)
	}
	if _, err := n.csi.Probe(ctx, &csi.ProbeRequest{}); err != nil {
		t.Error(err)
	}
}

func TestEndsWhenKubeletRefuses(t *testing.T) {
	n := start(t)
	_, err := n.kubelet.NotifyRegistrationStatus(t.Context(), &registrationv1.RegistrationStatus{Error: "name is taken"})
	if err != nil {
		t.Fatal(err)
	}
	if err := <-n.done; err == nil || !strings.Contains(err.Error(), "name is taken") {
		t.Errorf("end: %v, want the refusal", err)
	}
}
