// Package sanity runs csi-sanity, the conformance suite of CSI, over the real
// controller and node binaries. The node's mount manager is the fake of
// libs/mountmgrtest.
package sanity

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/kubernetes-csi/csi-test/v5/pkg/sanity"
	"github.com/onsi/ginkgo/v2"
	"google.golang.org/grpc"

	"github.com/juicefs-csi/driver/libs/grpcclient"
	"github.com/juicefs-csi/driver/libs/mountmgrtest"
)

func TestSanity(t *testing.T) {
	directory := shortDir(t)
	kubeletDir := filepath.Join(directory, "kubelet")
	fake := mountmgrtest.NewFake(mountmgrtest.Options{KubeletDir: kubeletDir})

	node := "unix://" + filepath.Join(directory, "node.sock")
	start(t, build(t, directory, "node"), nil,
		"--node-name=node-1", "--kubelet-dir="+kubeletDir, "--endpoint="+node, "--metrics-address=",
		"--mountmgr="+mountmgrtest.Serve(t, fake))
	controller := "unix://" + filepath.Join(directory, "controller.sock")
	// Without the variables of a pod the controller finds no Kubernetes.
	start(t, build(t, directory, "controller"), []string{"KUBERNETES_SERVICE_HOST=", "KUBERNETES_SERVICE_PORT="},
		"--endpoint="+controller, "--provisioner=false", "--leader-election=false", "--metrics-address=")
	awaitReady(t, node)
	awaitReady(t, controller)

	config := sanity.NewTestConfig()
	config.Address = strings.Replace(node, "unix://", "unix:", 1)
	config.ControllerAddress = strings.Replace(controller, "unix://", "unix:", 1)
	config.TargetPath = filepath.Join(kubeletDir, "target")
	config.StagingPath = filepath.Join(kubeletDir, "staging")
	if err := os.MkdirAll(kubeletDir, 0o700); err != nil {
		t.Fatal(err)
	}
	advertised := capabilities(t, node, controller)
	ginkgo.ReportAfterSuite("skipped tests", func(report ginkgo.Report) { checkSkips(t, report, advertised) })
	sanity.Test(t, config)
}

// shortDir is a directory for sockets, whose paths must be short.
func shortDir(t *testing.T) string {
	t.Helper()
	directory, err := os.MkdirTemp("", "sanity") //nolint:usetesting // t.TempDir is named after the test
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(directory); err != nil {
			t.Error(err)
		}
	})
	return directory
}

// build builds the binary of a service as it is released: without the
// workspace.
func build(t *testing.T, directory, service string) string {
	t.Helper()
	binary := filepath.Join(directory, "juicefs-csi-"+service)
	command := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "./cmd/juicefs-csi-"+service)
	command.Dir = filepath.Join("..", "..", "services", service)
	command.Env = append(os.Environ(), "GOWORK=off", "CGO_ENABLED=0")
	if output, err := command.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", service, err, output)
	}
	return binary
}

// start runs a binary until the test is over. Its log is shown when the test
// fails.
func start(t *testing.T, binary string, environment []string, arguments ...string) {
	t.Helper()
	log, err := os.Create(binary + ".log")
	if err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(context.WithoutCancel(t.Context()), binary, arguments...)
	command.Env = append(os.Environ(), environment...)
	command.Stdout, command.Stderr = log, log
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := command.Process.Signal(syscall.SIGTERM); err != nil {
			t.Errorf("end %s: %v", filepath.Base(binary), err)
		}
		if err := command.Wait(); err != nil {
			t.Errorf("%s ended: %v", filepath.Base(binary), err)
		}
		if t.Failed() {
			t.Logf("%s:\n%s", filepath.Base(binary), tail(log))
		}
		log.Close()
	})
}

// tail is the end of a log.
func tail(log *os.File) []byte {
	const length = 16 << 10
	size, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return nil
	}
	data := make([]byte, min(size, length))
	// What can be read is enough.
	count, _ := log.ReadAt(data, max(size-length, 0))
	return data[:count]
}

func awaitReady(t *testing.T, address string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	response, err := csi.NewIdentityClient(dial(t, address)).Probe(ctx, &csi.ProbeRequest{})
	if err != nil || !response.GetReady().GetValue() {
		t.Fatalf("probe of %s: %v, %v", address, response, err)
	}
}

func dial(t *testing.T, address string) *grpc.ClientConn {
	t.Helper()
	connection, err := grpcclient.Dial(address, grpcclient.Options{Name: "sanity"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := connection.Close(); err != nil {
			t.Error(err)
		}
	})
	return connection
}
