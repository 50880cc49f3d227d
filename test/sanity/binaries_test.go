package sanity

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/juicefs-csi/driver/libs/mountmgrtest"
)

// startDriver starts the two binaries and a fake mount manager until the test
// is over.
func startDriver(t *testing.T, directory string) Installed {
	t.Helper()
	kubeletDir := filepath.Join(directory, "kubelet")
	fake := mountmgrtest.NewFake(mountmgrtest.Options{KubeletDir: kubeletDir})

	driver := Installed{
		Node:       "unix://" + filepath.Join(directory, "node.sock"),
		Controller: "unix://" + filepath.Join(directory, "controller.sock"),
		TargetDir:  filepath.Join(kubeletDir, "pods"),
	}
	start(t, build(t, directory, "node"), nil,
		"--node-name=node-1", "--kubelet-dir="+kubeletDir, "--endpoint="+driver.Node, "--metrics-address=",
		"--mountmgr="+mountmgrtest.Serve(t, fake))
	// Without the variables of a pod the controller finds no Kubernetes.
	start(t, build(t, directory, "controller"), []string{"KUBERNETES_SERVICE_HOST=", "KUBERNETES_SERVICE_PORT="},
		"--endpoint="+driver.Controller, "--provisioner=false", "--leader-election=false", "--metrics-address=")
	return driver
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
