package clientdir_test

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/juicefs-csi/driver/services/mountmgr/internal/clientdir"
)

func TestPath(t *testing.T) {
	for image, want := range map[string]string{
		"juicedata/mount:ce-v1.4.1":        "/c/juicedata_mount_ce-v1.4.1",
		"registry:5000/a_b/c@sha256:01234": "/c/registry_5000_a_b_c_sha256_01234",
		"../../etc":                        "/c/.._.._etc",
	} {
		if got, err := clientdir.Path("/c", image); got != want || err != nil {
			t.Errorf("%s: got %s, %v, want %s", image, got, err, want)
		}
	}
	for _, image := range []string{"", ".", ".."} {
		if got, err := clientdir.Path("/c", image); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: got %s, %v", image, got, err)
		}
	}
}

// The image of this test has a dynamic program of this machine as its client,
// which must run from the copy alone.
func TestCopyTakesWhatAClientNeeds(t *testing.T) {
	const program = "/bin/ls"
	root, dir := t.TempDir(), t.TempDir()
	for _, dir := range []string{"/lib", "/lib64", "/usr/lib"} {
		if _, err := os.Stat(dir); err == nil {
			link(t, dir, root+dir)
		}
	}
	link(t, "/etc/ld.so.conf.d", root+"/etc/ld.so.conf.d")
	copyFile(t, program, root+"/usr/local/bin/juicefs")
	if err := os.MkdirAll(root+"/etc/pki/tls/certs", 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(root+"/etc/pki/tls/certs/ca-bundle.crt", []byte("trust"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, ".copy-dead"), 0o750); err != nil {
		t.Fatal(err)
	}
	for range 2 { // The second finds it there.
		if err := clientdir.Copy(root, dir, "a/b:1"); err != nil {
			t.Fatal(err)
		}
	}
	copied := filepath.Join(dir, "a_b_1")
	if text, err := os.ReadFile(filepath.Join(copied, "etc/ssl/certs/ca-certificates.crt")); string(text) != "trust" {
		t.Errorf("certificates: %q, %v", text, err)
	}
	if to, err := os.Readlink(filepath.Join(copied, "bin/mount.juicefs")); to != "/usr/local/bin/juicefs" {
		t.Errorf("mount program: %q, %v", to, err)
	}
	if entries, err := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("beside the copy: %v, %v", entries, err)
	}
	command := exec.Command(loader(t, program), "--inhibit-cache", "--library-path", libraryPath(copied),
		filepath.Join(copied, "usr/local/bin/juicefs"), copied)
	if output, err := command.CombinedOutput(); err != nil {
		t.Errorf("run the copy: %v\n%s", err, output)
	}
}

func loader(t *testing.T, program string) string {
	t.Helper()
	file, err := elf.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	text, err := file.Section(".interp").Data()
	if err != nil {
		t.Fatal(err)
	}
	return string(text[:len(text)-1])
}

// libraryPath is every directory of the copy that has libraries, and nothing of
// this machine.
func libraryPath(root string) string {
	found := ""
	for _, pattern := range []string{"lib*/lib*.so*", "lib/*/lib*.so*", "usr/lib*/lib*.so*", "usr/lib/*/lib*.so*"} {
		files, _ := filepath.Glob(filepath.Join(root, pattern))
		for _, file := range files {
			found += filepath.Dir(file) + ":"
		}
	}
	return found
}

func link(t *testing.T, from, to string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(to), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(from, to); err != nil {
		t.Fatal(err)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, text, 0o755); err != nil {
		t.Fatal(err)
	}
}
