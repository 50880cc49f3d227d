package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// title is the label with an image's name.
const title = "org.opencontainers.image.title"

// mountImage is a mount image of the local cluster, with what a client and the
// people who look after it need: the client itself, df, stat and umount (the
// client executes them), a shell, and certificates.
func mountImage(client, busybox, ca string) (imageSpec, error) {
	if client == "" {
		return imageSpec{}, errors.New("--juicefs is needed")
	}
	files, err := userland(busybox)
	if err != nil {
		return imageSpec{}, err
	}
	files.file("/usr/local/bin/juicefs", client, 0o755)
	files.link("/usr/bin/mount.juicefs", "../local/bin/juicefs")
	files.file("/etc/ssl/certs/ca-certificates.crt", ca, 0o644)
	return localSpec(files, "JuiceFS mount image of the local cluster"), nil
}

// appImage is a userland for applications of tests and the demonstration.
func appImage(busybox string) (imageSpec, error) {
	files, err := userland(busybox)
	if err != nil {
		return imageSpec{}, err
	}
	return localSpec(files, "application of the local cluster"), nil
}

func localSpec(files tree, name string) imageSpec {
	return imageSpec{
		files:  files,
		cmd:    []string{"/bin/sh"},
		env:    []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
		labels: map[string]string{title: name},
		level:  localLevel,
	}
}

// userland is a root file system with a busybox and links for its applets. It
// has the merged layout of current distributions, /bin being a link to
// usr/bin: a file put into bin would replace that link.
func userland(busybox string) (tree, error) {
	applets, err := listApplets(busybox)
	if err != nil {
		return nil, err
	}
	files := tree{}
	for _, dir := range []string{"bin", "sbin", "lib", "lib64"} {
		files.dir("/usr/"+dir, 0o755)
		files.link("/"+dir, "usr/"+dir)
	}
	for _, dir := range []string{"dev", "proc", "sys", "run", "mnt", "var/lib", "var/log", "usr/local/bin"} {
		files.dir(dir, 0o755)
	}
	files.dir("/root", 0o700)
	files.dir("/tmp", 0o1777)
	files.dir("/var/tmp", 0o1777)
	files.link("/var/run", "../run")
	files.text("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
	files.text("/etc/group", "root:x:0:\nnogroup:x:65534:\n")
	// Names are looked up in /etc/hosts first.
	files.text("/etc/nsswitch.conf", "hosts: files dns\n")
	files.file("/usr/bin/busybox", busybox, 0o755)
	for _, applet := range applets {
		files.link("/usr/bin/"+applet, "busybox")
	}
	return files, nil
}

// listApplets asks a busybox of this machine for its commands.
func listApplets(busybox string) ([]string, error) {
	command := exec.CommandContext(context.Background(), busybox, "--list")
	command.Stderr = os.Stderr
	output, err := command.Output()
	if err != nil {
		return nil, fmt.Errorf("list the applets of %s: %w", busybox, err)
	}
	applets := slices.DeleteFunc(strings.Fields(string(output)), func(name string) bool {
		return name == "busybox" || strings.Contains(name, "/")
	})
	if !slices.Contains(applets, "sh") {
		return nil, fmt.Errorf("%s has no shell; is it a busybox?", busybox)
	}
	return applets, nil
}
