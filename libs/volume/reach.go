package volume

import (
	"net"
	"strings"
	"time"
)

// LauncherPath is where mount pods find jfs-launch.
const LauncherPath = LauncherDir + "/jfs-launch"

// reachTimeout bounds the attempt to connect to a metadata engine.
const reachTimeout = 10 * time.Second

// reachStage connects to the metadata engine before the client does: the
// client tries again for more than a minute before it says that it cannot, and
// whoever waits for the pod would only see that it waits. Addresses of several
// hosts are left to the client.
func reachStage(address string) (Stage, bool) {
	host := engineHost(address)
	if host == "" {
		return Stage{}, false
	}
	return Stage{Name: "metadata engine", Argv: []string{LauncherPath, "reach", host}, Timeout: reachTimeout}, true
}

// engineHost returns host:port of an engine that listens at one address, and
// nothing for the others.
func engineHost(address string) string {
	scheme, rest, _ := strings.Cut(address, "://")
	ports := map[string]string{"redis": "6379", "rediss": "6379", "postgres": "5432", "mysql": "3306"}
	port, known := ports[scheme]
	if !known {
		return ""
	}
	if end := strings.IndexAny(rest, "/?"); end >= 0 {
		rest = rest[:end]
	}
	rest = rest[strings.LastIndex(rest, "@")+1:]
	if scheme == "mysql" { // mysql://user@(host:3306)/db
		rest = strings.TrimSuffix(strings.TrimPrefix(rest, "("), ")")
	}
	if rest == "" || strings.ContainsAny(rest, ",()") {
		return ""
	}
	if _, _, err := net.SplitHostPort(rest); err == nil {
		return rest
	}
	return net.JoinHostPort(strings.Trim(rest, "[]"), port)
}
