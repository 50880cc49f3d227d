package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// service is what the image of a service must be.
type service struct {
	name     string
	user     string
	programs []string
}

func services() []service {
	return []service{
		{name: "controller", user: "65532:65532", programs: []string{"juicefs-csi-controller"}},
		{name: "dashboard", user: "65532:65532", programs: []string{"juicefs-csi-dashboard"}},
		{name: "mountmgr", user: "0:0", programs: []string{"juicefs-mountmgr", "juicefs-fdvault", "jfs-launch"}},
		{name: "node", user: "0:0", programs: []string{"juicefs-csi-node"}},
	}
}

// TestEveryServiceHasADockerfile finds a service that the table forgot.
func TestEveryServiceHasADockerfile(t *testing.T) {
	found, err := filepath.Glob("../../services/*/Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, s := range services() {
		want = append(want, filepath.Join("../../services", s.name, "Dockerfile"))
	}
	if diff := cmp.Diff(want, found); diff != "" {
		t.Errorf("Dockerfiles (-want +got):\n%s", diff)
	}
}

// TestServiceImages builds the image of each service from its Dockerfile, and
// reads the archive back.
func TestServiceImages(t *testing.T) {
	for _, s := range services() {
		t.Run(s.name, func(t *testing.T) {
			archive := buildService(t, s)
			image, err := tarball.ImageFromPath(archive, nil)
			if err != nil {
				t.Fatal(err)
			}
			file, err := image.ConfigFile()
			if err != nil {
				t.Fatal(err)
			}
			if file.Config.User != s.user {
				t.Errorf("user = %q, want %q", file.Config.User, s.user)
			}
			if diff := cmp.Diff([]string{"/" + s.programs[0]}, file.Config.Entrypoint); diff != "" {
				t.Errorf("entrypoint (-want +got):\n%s", diff)
			}
			labels := map[string]string{
				"org.opencontainers.image.title":    "juicefs-csi/" + s.name,
				"org.opencontainers.image.licenses": "Apache-2.0",
				"org.opencontainers.image.source":   "https://github.com/juicefs-csi/driver",
				"org.opencontainers.image.version":  "v9.8.7",
				"org.opencontainers.image.revision": "0123abc",
			}
			for key, want := range labels {
				if got := file.Config.Labels[key]; got != want {
					t.Errorf("label %s = %q, want %q", key, got, want)
				}
			}
			want := []string{"drwxr-xr-x etc/", "-rw-r--r-- etc/group", "-rw-r--r-- etc/passwd", "dtrwxrwxrwx tmp/"}
			for _, program := range s.programs {
				want = append(want, "-rwxr-xr-x "+program)
			}
			slices.Sort(want)
			if diff := cmp.Diff(want, layerEntries(t, archive)); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
		})
	}
}

// TestDockerfilesCompileTheService checks what only Docker executes: the
// package of each program and the flags.
func TestDockerfilesCompileTheService(t *testing.T) {
	for _, s := range services() {
		t.Run(s.name, func(t *testing.T) {
			path := "../../services/" + s.name + "/Dockerfile"
			file, err := readDockerfile(path, nil)
			if err != nil {
				t.Fatal(err)
			}
			var programs []string
			for _, made := range file.installs {
				if made.goPackage == "" {
					continue
				}
				program := strings.TrimPrefix(made.target, "/")
				programs = append(programs, program)
				if want := "./services/" + s.name + "/cmd/" + program; made.goPackage != want {
					t.Errorf("%s is built from %s, want %s", program, made.goPackage, want)
				}
			}
			if diff := cmp.Diff(s.programs, programs); diff != "" {
				t.Errorf("programs (-want +got):\n%s", diff)
			}
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			stamp := "-X github.com/juicefs-csi/driver/libs/version.release=${RELEASE}"
			for _, want := range []string{"go build -trimpath ", stamp} {
				if got := strings.Count(string(text), want); got != len(s.programs) {
					t.Errorf("%q occurs %d times, want %d", want, got, len(s.programs))
				}
			}
			if !strings.Contains(string(text), "ENV CGO_ENABLED=0\n") {
				t.Error("programs are not static: ENV CGO_ENABLED=0 is missing")
			}
		})
	}
}

func TestEqualInputsGiveEqualBytes(t *testing.T) {
	s := services()[0]
	first, err := os.ReadFile(buildService(t, s))
	if err != nil {
		t.Fatal(err)
	}
	second, err := os.ReadFile(buildService(t, s))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first, second) {
		t.Error("two builds of the same program differ")
	}
}

func TestBuildRefusesWrongPrograms(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "juicefs-csi-node")
	if err := os.WriteFile(program, []byte("program"), 0o755); err != nil {
		t.Fatal(err)
	}
	build := func(service string, binaries ...string) error {
		args := []string{"build", "--root", "../..", "--service", service, "--tag", "a/b:c", "--output", filepath.Join(dir, "out.tar")}
		for _, binary := range binaries {
			args = append(args, "--binary", binary)
		}
		return run(args)
	}
	if err := build("node", program); err != nil {
		t.Errorf("right program: %v", err)
	}
	if err := build("node"); err == nil || !strings.Contains(err.Error(), "juicefs-csi-node") {
		t.Errorf("no program: error = %v, want one that names juicefs-csi-node", err)
	}
	if err := build("node", program, filepath.Join(dir, "other")); err == nil || !strings.Contains(err.Error(), "other") {
		t.Errorf("one program too many: error = %v, want one that names it", err)
	}
}

func TestMountImage(t *testing.T) {
	dir := t.TempDir()
	client := writeProgram(t, filepath.Join(dir, "juicefs"), "client")
	// A userland that only knows its list.
	busybox := writeProgram(t, filepath.Join(dir, "busybox"), "#!/bin/sh\necho sh busybox df stat umount\n")
	ca := writeProgram(t, filepath.Join(dir, "ca.crt"), "certificates")
	output := filepath.Join(dir, "mount.tar")
	err := run([]string{
		"mount", "--juicefs", client, "--busybox", busybox, "--ca", ca,
		"--tag", "juicedata/mount:ce-v1.4.2", "--output", output,
	})
	if err != nil {
		t.Fatal(err)
	}
	entries := layerEntries(t, output)
	for _, want := range []string{
		"-rwxr-xr-x usr/local/bin/juicefs",
		"Lrwxrwxrwx usr/bin/mount.juicefs -> ../local/bin/juicefs",
		"Lrwxrwxrwx usr/bin/df -> busybox",
		"Lrwxrwxrwx usr/bin/stat -> busybox",
		"Lrwxrwxrwx usr/bin/umount -> busybox",
		"Lrwxrwxrwx usr/bin/sh -> busybox",
		"Lrwxrwxrwx bin -> usr/bin",
		"-rw-r--r-- etc/ssl/certs/ca-certificates.crt",
		"dtrwxrwxrwx tmp/",
	} {
		if !slices.Contains(entries, want) {
			t.Errorf("no %q in the image", want)
		}
	}
	for _, entry := range entries {
		_, name, _ := strings.Cut(entry, " ")
		if strings.HasPrefix(name, "bin/") || strings.HasPrefix(name, "sbin/") || strings.HasPrefix(name, "lib/") {
			t.Errorf("%s would replace the link of the merged /usr", name)
		}
	}
	if diff := cmp.Diff([]string{"docker.io/juicedata/mount:ce-v1.4.2"}, repoTags(t, output)); diff != "" {
		t.Errorf("references (-want +got):\n%s", diff)
	}
}

func TestUserlandRefusesWhatIsNoBusybox(t *testing.T) {
	program := writeProgram(t, filepath.Join(t.TempDir(), "busybox"), "#!/bin/sh\necho usage: something else\n")
	if _, err := userland(program); err == nil {
		t.Error("a program without a shell was accepted")
	}
}

func TestTreeRefusesEntriesBelowLinks(t *testing.T) {
	files := tree{}
	files.link("/bin", "usr/bin")
	files.text("/bin/sh", "")
	if err := files.writeTar(io.Discard); err == nil {
		t.Error("/bin/sh below the link /bin was accepted")
	}
}

func TestQualifiedTag(t *testing.T) {
	tests := []struct{ tag, want string }{
		{"juicedata/mount:ce-v1.4.2", "docker.io/juicedata/mount:ce-v1.4.2"},
		{"docker.io/juicedata/mount:ce-v1.4.2", "docker.io/juicedata/mount:ce-v1.4.2"},
		{"busybox:1", "docker.io/library/busybox:1"},
		{"registry.example.com:5000/team/node:v1", "registry.example.com:5000/team/node:v1"},
	}
	for _, test := range tests {
		got, err := qualifiedTag(test.tag)
		if err != nil || got.String() != test.want {
			t.Errorf("qualifiedTag(%q) = %q, %v, want %q", test.tag, got.String(), err, test.want)
		}
	}
	for _, tag := range []string{"juicedata/mount", "UPPER/case:v1", ""} {
		if got, err := qualifiedTag(tag); err == nil {
			t.Errorf("qualifiedTag(%q) = %q, want an error", tag, got.String())
		}
	}
}

func TestParseDockerfile(t *testing.T) {
	const build = "FROM golang AS build\n"
	const last = "FROM scratch\nCOPY --from=build /rootfs/ /\n"
	tests := []struct {
		name, text string
		// want is in the error; empty: no error.
		want string
	}{
		{"smallest", last, ""},
		{"other stages", "FROM node AS web\nRUN npm ci\n" + build + last, ""},
		{"comment in a continuation", build + "RUN install -d -m 0755 \\\n# why\n    /rootfs/x\n" + last, ""},
		{"unknown command", build + "RUN cp a /rootfs/a\n" + last, "line 2: RUN cp"},
		{"target elsewhere", build + "RUN install -d -m 0755 /x\n" + last, "not below /rootfs"},
		{"bad mode", build + "RUN install -d -m u+x /rootfs/x\n" + last, "parse the mode"},
		{"open quote", build + "RUN go build -ldflags \"-s -o /rootfs/a ./a\n" + last, "not closed"},
		{"base image", build + "FROM alpine\nCOPY --from=build /rootfs/ /\n", "built from scratch"},
		{"other copy", last + "COPY a /a\n", "line 3: COPY"},
		{"unknown instruction", last + "EXPOSE 80\n", "EXPOSE is not known"},
		{"shell entrypoint", last + "ENTRYPOINT /a\n", "want a JSON list"},
		{"no copy", "FROM scratch\n", "does not copy"},
		{"copy of another stage only", build + "COPY . .\n", "does not copy"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := parseDockerfile(test.text, nil)
			switch {
			case test.want == "" && err != nil:
				t.Errorf("error = %v", err)
			case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
				t.Errorf("error = %v, want %q in it", err, test.want)
			}
		})
	}
}

func TestBuildArguments(t *testing.T) {
	const text = "ARG A=default\nFROM golang AS build\nARG A\n" +
		"FROM scratch\nARG A\nCOPY --from=build /rootfs/ /\nLABEL a=\"is ${A}\"\n"
	for want, given := range map[string]map[string]string{"is default": nil, "is given": {"A": "given"}} {
		file, err := parseDockerfile(text, given)
		if err != nil {
			t.Fatal(err)
		}
		if got := file.labels["a"]; got != want {
			t.Errorf("label = %q, want %q", got, want)
		}
	}
}

// buildService builds the image of s with made-up programs, and returns the
// path of the archive.
func buildService(t *testing.T, s service) string {
	t.Helper()
	dir := t.TempDir()
	output := filepath.Join(dir, "dist", "image.tar")
	args := []string{
		"build", "--root", "../..", "--service", s.name, "--tag", "juicefs-csi/" + s.name + ":v9.8.7",
		"--release", "v9.8.7", "--revision", "0123abc", "--output", output,
	}
	for _, program := range s.programs {
		args = append(args, "--binary", writeProgram(t, filepath.Join(dir, program), "the program "+program))
	}
	if err := run(args); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(output + ".tmp"); err == nil {
		t.Error("a temporary file is left behind")
	}
	return output
}

func writeProgram(t *testing.T, path, content string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// layerEntries lists the entries of all layers, in order, each with its mode.
// It checks that none has an owner or a time.
func layerEntries(t *testing.T, archive string) []string {
	t.Helper()
	image, err := tarball.ImageFromPath(archive, nil)
	if err != nil {
		t.Fatal(err)
	}
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	var entries []string
	for _, layer := range layers {
		content, err := layer.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, tarEntries(t, content)...)
		if err := content.Close(); err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(entries)
	return entries
}

func tarEntries(t *testing.T, content io.Reader) []string {
	t.Helper()
	var entries []string
	names := map[string]bool{}
	for reader := tar.NewReader(content); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if header.Uid != 0 || header.Gid != 0 || header.ModTime.Unix() != 0 {
			t.Errorf("%s: owner %d:%d, time %v, want none", header.Name, header.Uid, header.Gid, header.ModTime)
		}
		entry := header.FileInfo().Mode().String() + " " + header.Name
		if header.Linkname != "" {
			entry += " -> " + header.Linkname
		}
		entries = append(entries, entry)
		names[header.Name] = true
	}
	if len(names) != len(entries) {
		t.Errorf("%d entries have %d names: %v", len(entries), len(names), slices.Sorted(maps.Keys(names)))
	}
	return entries
}

// repoTags reads the references that an archive is imported under.
func repoTags(t *testing.T, archive string) []string {
	t.Helper()
	manifest, err := tarball.LoadManifest(func() (io.ReadCloser, error) { return os.Open(archive) })
	if err != nil {
		t.Fatal(err)
	}
	if len(manifest) != 1 {
		text, _ := json.Marshal(manifest)
		t.Fatalf("manifest = %s, want one image", text)
	}
	return manifest[0].RepoTags
}
