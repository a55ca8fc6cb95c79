package bootstrap

import (
	"encoding/json"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/version"
)

// versionOf reads the response of /version; minor is -1 if it cannot be read.
func versionOf(body []byte) (git string, minor int) {
	var v version.Info
	if err := json.Unmarshal(body, &v); err != nil {
		return "version unknown", -1
	}
	n, err := strconv.Atoi(strings.TrimRight(v.Minor, "+")) // some builds say "36+"
	if err != nil {
		n = -1
	}
	return v.GitVersion, n
}
