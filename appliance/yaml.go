package appliance

import _ "go.yaml.in/yaml/v3" // reads documents, with lines
